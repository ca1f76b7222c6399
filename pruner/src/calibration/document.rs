//! What a document says: text, or a conversation.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::error::Error;

/// A document to calibrate on; in JSON its `text` or its `messages`.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub enum Document {
    /// Text as it is.
    #[serde(rename = "text")]
    Text(String),
    /// A conversation, which a model's chat template makes text of.
    #[serde(rename = "messages")]
    Chat(Vec<Turn>),
}

/// One turn of a conversation.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct Turn {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// Makes token ids of documents, adding nothing of its own. A function from text to ids is one that knows no conversations.
pub trait Tokenize {
    /// Of text.
    fn text(&self, text: &str) -> Vec<u32>;

    /// Of a conversation.
    fn chat(&self, _turns: &[Turn]) -> Result<Vec<u32>, Error> {
        Err(Error::Chat { problem: "there is no chat template".into() })
    }
}

impl<F: Fn(&str) -> Vec<u32>> Tokenize for F {
    fn text(&self, text: &str) -> Vec<u32> {
        self(text)
    }
}

impl Document {
    /// Its token ids.
    pub fn tokens(&self, tokenize: &dyn Tokenize) -> Result<Vec<u32>, Error> {
        match self {
            Document::Text(text) => Ok(tokenize.text(text)),
            Document::Chat(turns) => tokenize.chat(turns),
        }
    }

    /// Bytes of all that it says.
    pub fn bytes(&self) -> usize {
        match self {
            Document::Text(text) => text.len(),
            Document::Chat(turns) => turns.iter().map(|turn| turn.content.len()).sum(),
        }
    }

    pub(super) fn is_blank(&self) -> bool {
        match self {
            Document::Text(text) => text.trim().is_empty(),
            Document::Chat(turns) => turns.iter().all(|turn| turn.content.trim().is_empty()),
        }
    }

    /// Of a line of JSONL: its `text`, its `messages`, or a `question` with its `answer`, as these are asked in measurements.
    pub(super) fn of_line(line: &[u8]) -> Option<Self> {
        let Value::Object(fields) = serde_json::from_slice(line).ok()? else { return None };
        match (fields.get("text"), fields.get("messages")) {
            (Some(text), _) => text.as_str().map(|text| Document::Text(text.to_owned())),
            (None, Some(messages)) => Vec::deserialize(messages).ok().map(Document::Chat),
            (None, None) => question_and_answer(&fields).map(Document::Text),
        }
    }
}

impl Turn {
    /// What `role` said.
    pub fn new(role: &str, content: &str) -> Self {
        Turn { role: role.into(), content: content.into() }
    }
}

fn question_and_answer(fields: &Map<String, Value>) -> Option<String> {
    let field = |name: &str| fields.get(name).and_then(Value::as_str);
    let answer = match field("answer") {
        Some(answer) => answer,
        // Of several choices the right one's index.
        None => fields.get("choices")?.get(usize::try_from(fields.get("answer")?.as_u64()?).ok()?)?.as_str()?,
    };
    Some(format!("Question: {}\nAnswer: {}\n", field("question")?.trim(), answer.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_have_a_text_or_a_question_with_its_answer() {
        for (line, expected) in [
            (r#"{"id": 1, "text": "a\nb"}"#, Some("a\nb")),
            (r#"{"text": "a", "question": "q", "answer": "b"}"#, Some("a")),
            (r##"{"question": " q? ", "answer": "s\n#### 2"}"##, Some("Question: q?\nAnswer: s\n#### 2\n")),
            (r#"{"question": "q?", "choices": ["a", "b"], "answer": 1}"#, Some("Question: q?\nAnswer: b\n")),
            (r#"{"text": 3, "question": "q", "answer": "b"}"#, None),
            (r#"{"question": "q?", "choices": ["a", "b"], "answer": 2}"#, None),
            (r#"{"question": "q?", "choices": ["a", "b"], "answer": -1}"#, None),
            (r#"{"question": "q?", "answer": 1}"#, None),
            (r#"{"answer": "a"}"#, None),
            ("[]", None),
            ("{", None),
        ] {
            let expected = expected.map(|text| Document::Text(text.into()));
            assert_eq!(Document::of_line(line.as_bytes()), expected, "{line}");
        }
    }

    #[test]
    fn lines_may_be_conversations() {
        let line =
            br#"{"messages": [{"role": "user", "content": "a", "x": 1}, {"role": "assistant", "content": "b"}]}"#;
        let chat = Document::of_line(line).unwrap();
        assert_eq!(chat, Document::Chat(vec![Turn::new("user", "a"), Turn::new("assistant", "b")]));
        assert_eq!((chat.bytes(), chat.is_blank()), (2, false));
        let refused = chat.tokens(&|text: &str| vec![text.len() as u32]).unwrap_err().to_string();
        assert!(refused.contains("there is no chat template"), "{refused}");
        for line in [
            r#"{"messages": [{"role": "user"}]}"#,
            r#"{"messages": [{"role": "user", "content": ["a"]}]}"#,
            r#"{"messages": "a"}"#,
            r#"{"messages": [1]}"#,
        ] {
            assert_eq!(Document::of_line(line.as_bytes()), None, "{line}");
        }
        assert!(Document::of_line(br#"{"messages": []}"#).unwrap().is_blank());
    }
}
