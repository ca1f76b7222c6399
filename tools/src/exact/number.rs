//! Numbers in answers.

/// What stands before the number that counts.
const MARK: &str = "####";

/// The number after the first `####`.
pub(super) fn marked(text: &str) -> Option<f64> {
    let (_, rest) = text.split_once(MARK)?;
    numbers(rest.lines().next()?).next()
}

/// The last number.
pub(super) fn last(text: &str) -> Option<f64> {
    numbers(text).last()
}

/// Whether the number is there and what follows it cannot be part of it.
pub(super) fn is_finished(text: &str) -> bool {
    text.split_once(MARK).is_some_and(|(_, rest)| rest.trim_start_matches(' ').contains('\n'))
}

/// As numbers, not as texts: `1,000.00` is `1000`.
pub(super) fn equal(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-6 * b.abs().max(1.0)
}

/// All numbers of `text`, with thousands set off by commas or not.
fn numbers(text: &str) -> impl Iterator<Item = f64> + '_ {
    let is_part = |c: char| c.is_ascii_digit() || matches!(c, '.' | ',' | '-');
    text.split(move |c| !is_part(c)).filter_map(|piece| {
        // A sign is at the beginning or not one: `3-2`.
        let piece = piece.trim_end_matches(['.', ',', '-']);
        let start = piece.rfind('-').filter(|&at| at > 0).map_or(0, |at| at + 1);
        piece[start..].trim_start_matches([',']).replace(',', "").parse::<f64>().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_found_however_they_are_written() {
        for (text, number) in [
            ("so\n#### 18", 18.0),
            ("#### $1,234.50.", 1234.5),
            ("####-3 apples", -3.0),
            ("#### 7\n#### 8", 7.0),
            ("#### 0.5%", 0.5),
        ] {
            assert_eq!(marked(text), Some(number), "{text}");
        }
        for text in ["18", "#### none\n18", "#### ", "#### -", "####"] {
            assert_eq!(marked(text), None, "{text}");
        }
        assert_eq!(last("5-2 is 3. So she has $3,000."), Some(3000.0));
        assert_eq!(last("none"), None);
        assert!(equal(1.0000000001, 1.0) && !equal(1.001, 1.0) && equal(0.0, 0.0));
    }

    #[test]
    fn an_answer_is_finished_after_its_number() {
        assert!(is_finished("x\n#### 18\n") && !is_finished("x\n#### 18") && !is_finished("x\n"));
    }
}
