//! Numbers in order, of which it can be told how many are below another.

/// The most numbers in a block.
const BLOCK: usize = 256;

/// Numbers in order, each as often as it was put in.
///
/// They are kept in blocks, none of them empty, so that a change moves one block's numbers, and
/// counting goes through the lengths of the blocks and one of them. With 8192 numbers these are 64
/// blocks at most after insertions alone; what is removed may leave more, smaller ones.
#[derive(Debug, Clone, Default)]
pub(super) struct Sorted {
    blocks: Vec<Vec<u64>>,
}

impl Sorted {
    pub(super) fn insert(&mut self, number: u64) {
        // The first block that reaches as far, or else the last one.
        let index = self.blocks.partition_point(|block| last(block) < number);
        let index = index.min(self.blocks.len().saturating_sub(1));
        let Some(block) = self.blocks.get_mut(index) else {
            self.blocks.push(vec![number]);
            return;
        };
        let at = block.partition_point(|&other| other < number);
        block.insert(at, number);
        if block.len() > BLOCK {
            let half = block.split_off(BLOCK / 2);
            self.blocks.insert(index + 1, half);
        }
    }

    /// Removes a number once, if it is there.
    pub(super) fn remove(&mut self, number: u64) {
        let index = self.blocks.partition_point(|block| last(block) < number);
        let Some(block) = self.blocks.get_mut(index) else {
            return;
        };
        let at = block.partition_point(|&other| other < number);
        if block.get(at) == Some(&number) {
            block.remove(at);
            if block.is_empty() {
                self.blocks.remove(index);
            }
        }
    }

    /// How many numbers are less than `number`.
    pub(super) fn below(&self, number: u64) -> usize {
        let whole = self.blocks.partition_point(|block| last(block) < number);
        let rest = self.blocks.get(whole);
        self.len_of(whole) + rest.map_or(0, |block| block.partition_point(|&other| other < number))
    }

    /// How many numbers are not greater than `number`.
    pub(super) fn up_to(&self, number: u64) -> usize {
        let whole = self.blocks.partition_point(|block| last(block) <= number);
        let rest = self.blocks.get(whole);
        self.len_of(whole) + rest.map_or(0, |block| block.partition_point(|&other| other <= number))
    }

    /// How many numbers are in the first blocks.
    fn len_of(&self, blocks: usize) -> usize {
        self.blocks[..blocks].iter().map(Vec::len).sum()
    }
}

fn last(block: &[u64]) -> u64 {
    block.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn no_block_is_empty_or_large() {
        let mut sorted = Sorted::default();
        for number in 0..8192_u64 {
            sorted.insert(number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        }
        assert_eq!(sorted.len_of(sorted.blocks.len()), 8192);
        let lengths = || sorted.blocks.iter().map(Vec::len);
        assert!(lengths().all(|length| (1..=BLOCK).contains(&length)));
        assert!(sorted.blocks.len() <= 2 * 8192 / BLOCK);
        for number in 0..8192_u64 {
            sorted.remove(number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        }
        assert!(sorted.blocks.is_empty());
    }

    proptest! {
        #[test]
        fn it_counts_what_a_list_holds(
            steps in prop::collection::vec((0..1000_u64, any::<bool>()), 1..2000),
        ) {
            let mut sorted = Sorted::default();
            let mut list: Vec<u64> = Vec::new();
            for (number, removes) in steps {
                if removes {
                    sorted.remove(number);
                    if let Some(at) = list.iter().position(|&other| other == number) {
                        list.swap_remove(at);
                    }
                } else {
                    sorted.insert(number);
                    list.push(number);
                }
                let count = |is: &dyn Fn(u64) -> bool| list.iter().filter(|&&n| is(n)).count();
                prop_assert_eq!(sorted.below(number), count(&|other| other < number));
                prop_assert_eq!(sorted.up_to(number), count(&|other| other <= number));
            }
        }
    }
}
