//! Search patterns ([MS-FSA] 2.1.4.4, [MS-FSCC] 2.1.4.5).
//!
//! Beside `*` and `?` there are three that keep the habits of DOS: `<` matches
//! up to the last period, `>` a character or nothing before a period and at
//! the end, and `"` a period or nothing at the end. Case is ignored.

use super::short_names;
use crate::wire::status::Status;
use crate::wire::text::{self, fold};

/// No name is longer than 255; the rest is for wildcards.
const MAX_LEN: usize = 512;

/// A search pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    folded: Vec<char>,
    /// No name with fewer characters matches.
    least: usize,
    /// It is a short name of the computed form.
    short_name: Option<String>,
}

impl Pattern {
    /// Prepares a pattern; an empty one matches everything.
    ///
    /// # Errors
    ///
    /// `STATUS_OBJECT_NAME_INVALID` for one that can match no name.
    pub fn new(pattern: &str) -> Result<Pattern, Status> {
        let pattern = if pattern.is_empty() { "*" } else { pattern };
        let mut folded: Vec<char> = pattern.chars().map(fold).take(MAX_LEN + 1).collect();
        if folded.len() > MAX_LEN || folded.iter().any(|c| matches!(c, '\0' | '/' | '\\' | ':')) {
            return Err(Status::OBJECT_NAME_INVALID);
        }
        // Next to `*` another one changes nothing, and neither does `<`, nor `<` next to itself.
        folded.dedup_by(|next, last| match (*last, *next) {
            ('*', '*' | '<') | ('<', '<') => true,
            ('<', '*') => {
                *last = '*';
                true
            }
            _ => false,
        });
        let is_character = |c: &&char| !matches!(c, '*' | '<' | '>' | '"');
        let least = folded.iter().filter(is_character).count();
        let short_name = short_names::is_computed(pattern).then(|| pattern.to_owned());
        Ok(Pattern {
            folded,
            least,
            short_name,
        })
    }

    /// Whether `name` matches, or has the short name that the pattern is. Wildcards are not held
    /// against short names: who asks for `*.htm` would get every `.html`.
    pub fn finds(&self, name: &str) -> bool {
        let has_short_name = |wanted: &String| {
            !short_names::is_short(name) && text::same_name(&short_names::short_name(name), wanted)
        };
        self.matches(name) || self.short_name.as_ref().is_some_and(has_short_name)
    }

    /// Whether `name` matches.
    pub fn matches(&self, name: &str) -> bool {
        if self.folded == ['*'] {
            return true;
        }
        let name: Vec<char> = name.chars().map(fold).collect();
        if name.len() < self.least {
            return false;
        }
        // suffix[j] says whether pattern[j..] matches what is left of the
        // name; the name is gone through from its end.
        let mut suffix = vec![false; self.folded.len() + 1];
        suffix[self.folded.len()] = true;
        for (j, p) in self.folded.iter().enumerate().rev() {
            suffix[j] = matches!(p, '*' | '<' | '>' | '"') && suffix[j + 1];
        }
        let mut shorter = suffix.clone();
        let mut dot_follows = false;
        for &c in name.iter().rev() {
            std::mem::swap(&mut suffix, &mut shorter);
            suffix[self.folded.len()] = false;
            for (j, &p) in self.folded.iter().enumerate().rev() {
                suffix[j] = match p {
                    '*' => suffix[j + 1] || shorter[j],
                    '<' => suffix[j + 1] || ((c != '.' || dot_follows) && shorter[j]),
                    '?' => shorter[j + 1],
                    '>' if c == '.' => suffix[j + 1],
                    '>' => shorter[j + 1],
                    '"' => c == '.' && shorter[j + 1],
                    _ => p == c && shorter[j + 1],
                };
            }
            dot_follows |= c == '.';
            if !suffix.contains(&true) {
                return false;
            }
        }
        suffix[0]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The rules of the specification, word by word.
    fn model(pattern: &[char], name: &[char]) -> bool {
        let Some((&p, rest)) = pattern.split_first() else {
            return name.is_empty();
        };
        let (first, tail) = match name.split_first() {
            Some((&c, tail)) => (Some(c), tail),
            None => (None, &[][..]),
        };
        match (p, first) {
            ('*', _) => model(rest, name) || first.is_some() && model(pattern, tail),
            ('<', _) => {
                let at_final_dot = first == Some('.') && !tail.contains(&'.');
                model(rest, name) || first.is_some() && !at_final_dot && model(pattern, tail)
            }
            ('>', None | Some('.')) => model(rest, name),
            ('"', None) => model(rest, name),
            ('"', Some(c)) => c == '.' && model(rest, tail),
            ('?' | '>', Some(_)) => model(rest, tail),
            ('?', None) => false,
            (_, Some(c)) => fold(p) == fold(c) && model(rest, tail),
            (_, None) => false,
        }
    }

    #[test]
    fn examples() {
        for (pattern, name, expected) in [
            ("", "anything", true),
            ("*", "", true),
            ("*.txt", "A.TXT", true),
            ("*.*", "noext", false),
            ("<", "noext", true),
            ("<", "a.b", false),
            ("<.c", "a.b.c", true),
            (">>>\"txt", "ab.txt", true),
            ("a\"", "a", true),
            ("?", "", false),
            ("Straße", "STRAßE", true),
        ] {
            let matches = Pattern::new(pattern).unwrap().matches(name);
            assert_eq!(matches, expected, "{pattern} on {name}");
        }
        assert_eq!(Pattern::new("a\\b"), Err(Status::OBJECT_NAME_INVALID));
    }

    #[test]
    fn what_costs_time_is_bounded() {
        let pattern = |pattern: &str| Pattern::new(pattern);
        let refused = Err(Status::OBJECT_NAME_INVALID);
        assert_eq!(pattern(&"a*".repeat(257)), refused);
        let short = |(long, short)| assert_eq!(pattern(long).unwrap().folded, [short]);
        [("****", '*'), ("<<<", '<'), ("<*<*<", '*')]
            .into_iter()
            .for_each(short);
        assert_eq!(pattern("?*a\"<>b").unwrap().least, 3);
        // It takes 256 characters.
        let long = pattern(&"a*".repeat(256)).unwrap();
        assert!(!long.matches(&"a".repeat(255)));
        assert!(long.matches(&"a".repeat(256)));
    }

    proptest! {
        #[test]
        fn agrees_with_the_model(pattern in "[abA.*?<>\"]{1,8}", name in "[abB.]{0,8}") {
            let expected = model(
                &pattern.chars().collect::<Vec<_>>(),
                &name.chars().collect::<Vec<_>>(),
            );
            prop_assert_eq!(Pattern::new(&pattern).unwrap().matches(&name), expected);
        }
    }
}
