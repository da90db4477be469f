//! Short names, eight characters and three, for programs that know no others ([MS-FSCC] 2.1.5.2.1).
//!
//! Nothing is stored: a name that isn't short itself has one that is computed from it, its first
//! character and six digits of a hash, as in `LQ4K0Z~7.TXT`. So the short name stays the same as
//! long as the name does, whatever else is in the directory. The downsides: finding a file by such
//! a name takes a look at the whole directory, two names in a million have the same one, of which
//! the first that is found counts, and `PROGRA~1` is nobody.

use crate::wire::text;

/// Characters that are allowed beside letters and digits.
const OTHERS: &str = "!#$%&'()-@^_`{}~";

const DIGITS: &[u8; 36] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ";

fn is_allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || OTHERS.contains(c)
}

/// Whether `name` is a short name as it is, in any case.
pub fn is_short(name: &str) -> bool {
    let (stem, extension) = match name.split_once('.') {
        Some((stem, extension)) => (stem, Some(extension)),
        None => (name, None),
    };
    let is_part =
        |part: &str, longest| (1..=longest).contains(&part.len()) && part.chars().all(is_allowed);
    is_part(stem, 8) && extension.is_none_or(|extension| is_part(extension, 3))
}

/// Whether `name` has the form of those that [`short_name`] computes.
pub fn is_computed(name: &str) -> bool {
    let stem = name.split('.').next().unwrap_or(name).as_bytes();
    let is_digit = |at: usize| stem[at].is_ascii_alphanumeric();
    is_short(name) && stem.len() == 8 && stem[6] == b'~' && (1..6).all(is_digit) && is_digit(7)
}

/// The short name of a file called `name` on the wire: that name, if it is one.
pub fn short_name(name: &str) -> String {
    if is_short(name) {
        return name.to_owned();
    }
    // FNV-1a over the name without case, so that changing the case changes nothing.
    let mut hash = 0xCBF2_9CE4_8422_2325_u64;
    for c in name.chars().map(text::fold) {
        for byte in u32::from(c).to_le_bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
        }
    }
    hash ^= hash >> 32;
    let first = name.chars().next().filter(char::is_ascii_alphanumeric);
    let mut out = String::with_capacity(12);
    out.push(first.unwrap_or('_').to_ascii_uppercase());
    for place in 0..6 {
        if place == 5 {
            out.push('~');
        }
        out.push(char::from(DIGITS[(hash % 36) as usize]));
        hash /= 36;
    }
    let extension = match name.rsplit_once('.') {
        Some((stem, extension)) if !stem.is_empty() => extension,
        _ => "",
    };
    let mut letters = extension.chars().filter(|&c| is_allowed(c)).take(3);
    if let Some(letter) = letters.next() {
        out.push('.');
        out.push(letter.to_ascii_uppercase());
        out.extend(letters.map(|letter| letter.to_ascii_uppercase()));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_names_are_their_own() {
        for name in ["a", "README.TXT", "small.c", "12345678.123", "~$a"] {
            assert!(is_short(name), "{name}");
            assert_eq!(short_name(name), name);
        }
        for name in [
            "",
            ".a",
            "a.",
            "a b",
            "123456789",
            "a.1234",
            "a.b.c",
            "ä",
            "a+b",
            "a,b",
        ] {
            assert!(!is_short(name), "{name:?}");
        }
    }

    #[test]
    fn names_with_the_same_beginning_have_different_short_names() {
        let names: std::collections::HashSet<String> = (0..1000)
            .map(|n| short_name(&format!("long file name {n}.jpeg")))
            .collect();
        assert_eq!(names.len(), 1000);
        assert!(
            names
                .iter()
                .all(|name| name.starts_with('L') && name.ends_with(".JPE"))
        );
    }

    proptest! {
        #[test]
        fn every_name_has_a_short_one_that_says_so(name in "\\PC{1,40}") {
            let short = short_name(&name);
            prop_assert!(is_short(&short), "{}", short);
            prop_assert!(is_short(&name) || is_computed(&short), "{}", short);
        }

        #[test]
        fn case_does_not_matter(name in "[a-zäöü .]{1,20}") {
            let other = short_name(&name.to_uppercase());
            prop_assert!(text::same_name(&short_name(&name), &other));
        }
    }
}
