//! Text on its way out: complete characters only, and nothing that may turn out to be a stop string.

/// Turns the bytes of tokens into text as soon as characters are complete.
#[derive(Debug, Default)]
pub struct PieceDecoder {
    pending: Vec<u8>,
}

impl PieceDecoder {
    /// Takes the next bytes; returns the characters that are complete. Bytes that can be no character any more
    /// become U+FFFD, as in [`String::from_utf8_lossy`].
    pub fn push(&mut self, bytes: &[u8]) -> String {
        self.pending.extend(bytes);
        let mut text = String::new();
        let mut from = 0;
        loop {
            match std::str::from_utf8(&self.pending[from..]) {
                Ok(rest) => {
                    text.push_str(rest);
                    from = self.pending.len();
                    break;
                }
                Err(error) => {
                    let valid = &self.pending[from..from + error.valid_up_to()];
                    text.push_str(&String::from_utf8_lossy(valid));
                    from += error.valid_up_to();
                    let Some(bad) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    from += bad;
                }
            }
        }
        self.pending.drain(..from);
        text
    }

    /// What is left at the end: an incomplete character, or nothing.
    pub fn finish(&mut self) -> String {
        let rest = String::from_utf8_lossy(&self.pending).into_owned();
        self.pending.clear();
        rest
    }
}

/// Looks for stop strings across pieces of text.
#[derive(Debug)]
pub struct StopStrings {
    stops: Vec<String>,
    /// Text that may be the beginning of a stop string.
    held: String,
    stopped: bool,
}

impl StopStrings {
    /// Looks for any of `stops`; empty ones are ignored.
    pub fn new(stops: &[String]) -> Self {
        let stops = stops.iter().filter(|s| !s.is_empty()).cloned().collect();
        StopStrings { stops, held: String::new(), stopped: false }
    }

    /// Takes the next piece; returns the text before any stop string, and whether there was one. Of several the one
    /// that is complete first counts, and of those the longest: the same one however the text is cut into pieces.
    pub fn push(&mut self, text: &str) -> (String, bool) {
        if self.stopped {
            return (String::new(), true);
        }
        self.held.push_str(text);
        let found = self.stops.iter().filter_map(|s| self.held.find(s.as_str()).map(|at| (at + s.len(), at)));
        if let Some((_, at)) = found.min() {
            self.stopped = true;
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self.stops.iter().map(|s| overlap(&self.held, s)).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The text that was held back for a stop string that did not come.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest end of `text` that is a beginning of `stop`.
fn overlap(text: &str, stop: &str) -> usize {
    let longest = text.len().min(stop.len() - 1);
    (1..=longest)
        .rev()
        .find(|&n| text.as_bytes().ends_with(&stop.as_bytes()[..n]) && stop.is_char_boundary(n))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_split_of_any_bytes_gives_the_same_text(bytes: Vec<u8>, cuts in prop::collection::vec(0..64usize, 0..6)) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).chain([0, bytes.len()]).collect();
            cuts.sort_unstable();
            let mut decoder = PieceDecoder::default();
            let mut text: String = cuts.windows(2).map(|c| decoder.push(&bytes[c[0]..c[1]])).collect();
            text.push_str(&decoder.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn stop_strings_are_found_however_the_text_is_cut(
            text in "[ab√]{0,30}", stops in prop::collection::vec("[ab√]{1,4}", 0..3), size in 1..5usize,
        ) {
            let mut search = StopStrings::new(&stops);
            let (mut shown, mut stopped) = (String::new(), false);
            let chars: Vec<char> = text.chars().collect();
            for piece in chars.chunks(size) {
                let (more, now) = search.push(&piece.iter().collect::<String>());
                shown.push_str(&more);
                stopped |= now;
            }
            if !stopped {
                shown.push_str(&search.finish());
            }
            // The beginning of the text that is the first to end in a stop string, and the longest of those.
            let starts = text.char_indices().map(|(at, c)| &text[..at + c.len_utf8()]);
            let complete = starts.filter_map(|t| stops.iter().filter(|s| t.ends_with(*s)).map(|s| t.len() - s.len()).min());
            match complete.into_iter().next() {
                None => prop_assert_eq!((shown.as_str(), stopped), (text.as_str(), false)),
                Some(at) => prop_assert_eq!((shown.as_str(), stopped), (&text[..at], true)),
            }
        }
    }

    #[test]
    fn nothing_is_held_back_without_need() {
        let mut search = StopStrings::new(&["\n\ndef".to_owned()]);
        assert_eq!(search.push("return x"), ("return x".into(), false));
        assert_eq!(search.push("\n"), (String::new(), false));
        assert_eq!(search.push("\n"), (String::new(), false));
        assert_eq!(search.push("class"), ("\n\nclass".into(), false));
        assert_eq!(search.push("\n\nd"), (String::new(), false));
        assert_eq!(search.push("ef f():"), (String::new(), true));
        assert_eq!(search.push("more"), (String::new(), true));
    }
}
