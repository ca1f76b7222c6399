//! Where a model repeats itself.

/// The longest piece whose repetition is seen, in tokens.
const LONGEST: usize = 96;

/// Tokens that repeat what is before them, at least. A table of zeros in a program is shorter.
const LEAST: usize = 32;

/// Sees when a text has come to say the same again and again.
#[derive(Debug)]
pub(super) struct Loops {
    tokens: Vec<u32>,
    /// How many of the last tokens are those `period` before them, by `period` less 1.
    same: Vec<usize>,
}

impl Loops {
    pub(super) fn new() -> Self {
        Loops { tokens: Vec::new(), same: vec![0; LONGEST] }
    }

    /// Adds a token. If the text has then said the same three times, and nothing since: how many tokens there were once
    /// it had said it the first time.
    pub(super) fn push(&mut self, token: u32) -> Option<usize> {
        let n = self.tokens.len();
        for (i, same) in self.same.iter_mut().enumerate() {
            let before = n.checked_sub(i + 1).map(|at| self.tokens[at]);
            *same = if before == Some(token) { *same + 1 } else { 0 };
        }
        self.tokens.push(token);
        let caught = self.same.iter().enumerate().find(|(i, same)| **same >= LEAST.max(2 * (i + 1)));
        caught.map(|(_, same)| n + 1 - same)
    }
}

/// Whether most lines of a text have been there before, with what little changes from one to the next left out: numbers.
pub(super) fn is_monotonous(text: &str) -> bool {
    let kind = |line: &str| line.trim().chars().filter(|c| !c.is_ascii_digit()).collect::<String>();
    let lines: Vec<String> = text.lines().map(kind).filter(|line| line.len() > 2).collect();
    let distinct = lines.iter().collect::<std::collections::HashSet<_>>().len();
    lines.len() >= 8 && 2 * distinct < lines.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first_caught(tokens: impl IntoIterator<Item = u32>) -> Option<(usize, usize)> {
        let mut loops = Loops::new();
        tokens.into_iter().enumerate().find_map(|(i, token)| Some((i + 1, loops.push(token)?)))
    }

    #[test]
    fn what_is_said_three_times_is_a_loop() {
        let before = (100..150).chain([7, 8]);
        // A long piece: caught at the end of the third, kept up to the end of the first.
        let piece: Vec<u32> = (0..40).collect();
        let text = before.clone().chain(piece.repeat(5));
        assert_eq!(first_caught(text), Some((52 + 120, 52 + 40)));
        // A short one has to be said more often.
        assert_eq!(first_caught(before.chain([1, 2, 3].repeat(30))), Some((52 + 3 + 32, 52 + 3)));
    }

    #[test]
    fn what_goes_on_is_no_loop() {
        assert_eq!(first_caught(0..2000), None);
        // Twice is not enough, nor is a piece that is longer than what is looked for, nor one that changes a little.
        assert_eq!(first_caught((0..90).chain(0..90).chain(200..500)), None);
        assert_eq!(first_caught((0..4).flat_map(|_| 0..LONGEST as u32 + 1)), None);
        assert_eq!(first_caught((0..50).flat_map(|i| [1, 2, 3, 1000 + i])), None);
    }

    #[test]
    fn lines_that_come_again_are_monotonous() {
        let counted: String = (0..20).map(|i| format!("    x{i} = {i}\n")).collect();
        assert!(is_monotonous(&counted));
        let told: String = "abcdefghij".chars().map(|c| format!("    {c}{c}{c} = {c}\n    }}\n")).collect();
        assert!(!is_monotonous(&told), "lines of a brace do not count");
        assert!(!is_monotonous("a = 1\n".repeat(7).as_str()) && !is_monotonous(""));
    }
}
