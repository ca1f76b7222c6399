//! A model's chat template, run as what it is: a program from a stranger.
//!
//! A template can nest deeper than any stack (minijinja's limits do not catch long chains of operators), so it is
//! small, gets a thread with a large stack, and counts its steps; its output is limited too.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value, context};
use pruner::calibration::{Tokenize, Turn};
use runtime::{Special, Tokenizer};

use crate::failure::Failure;

const MAX_TEMPLATE: usize = 64 << 10;
const MAX_OUTPUT: usize = 4 << 20;
const STACK: usize = 32 << 20;
const FUEL: u64 = 200_000;
const TIME: Duration = Duration::from_secs(5);

/// Makes tokens of texts as they are, and of conversations by the model's template, if it has one.
#[derive(Clone, Copy)]
pub struct DocumentTokens<'a> {
    /// The model's tokenizer.
    pub tokenizer: &'a Tokenizer,
    /// Its template.
    pub template: Option<&'a str>,
}

impl DocumentTokens<'_> {
    /// The tokens of a conversation up to the assistant's reply, which begins with `answer`.
    pub fn prompt(&self, turns: &[Turn], answer: &str) -> Result<Vec<u32>, Failure> {
        let none = || Failure::Usage("this model has no chat template; leave --chat out".into());
        let encoded = self.encode(self.template.ok_or_else(none)?, turns, true, answer);
        encoded.map_err(|failure| match failure {
            Failure::BadFile(message) => Failure::BadFile(format!("{message}; ask it without a chat")),
            other => other,
        })
    }

    fn encode(&self, template: &str, turns: &[Turn], asks: bool, answer: &str) -> Result<Vec<u32>, Failure> {
        let tokenizer = self.tokenizer;
        let text_of = |id: Option<u32>| id.map(|id| tokenizer.token_text(id)).unwrap_or_default();
        let bos = text_of(tokenizer.bos());
        let text = render(template, turns, asks, &bos, &text_of(tokenizer.eos()))? + answer;
        // Templates write the beginning of text themselves; encoding must not add another.
        let text = text.strip_prefix(bos.as_str()).filter(|_| tokenizer.adds_bos()).unwrap_or(&text);
        Ok(tokenizer.encode(text, Special::Parse))
    }
}

impl Tokenize for DocumentTokens<'_> {
    fn text(&self, text: &str) -> Vec<u32> {
        self.tokenizer.encode_plain(text)
    }

    fn chat(&self, turns: &[Turn]) -> Result<Vec<u32>, pruner::Error> {
        let refused = |problem: String| pruner::Error::Chat { problem };
        let template = self.template.ok_or_else(|| refused("this model has no chat template".into()))?;
        self.encode(template, turns, false, "").map_err(|failure| refused(failure.into_message()))
    }
}

/// Renders `messages` with the model's `template`; `asks` for the assistant's reply.
fn render(template: &str, messages: &[Turn], asks: bool, bos: &str, eos: &str) -> Result<String, Failure> {
    if template.len() > MAX_TEMPLATE {
        let len = template.len();
        return Err(bad(&format!("{len} bytes long, at most {MAX_TEMPLATE} are run")));
    }
    let (template, messages) = (template.to_owned(), messages.to_vec());
    let (bos, eos) = (bos.to_owned(), eos.to_owned());
    let (send, receive) = mpsc::channel();
    let job = move || {
        // The receiver is gone only if the time is up.
        let _ = send.send(render_here(&template, &messages, asks, &bos, &eos));
    };
    let thread = thread::Builder::new().name("chat-template".into()).stack_size(STACK).spawn(job);
    thread.map_err(|e| Failure::Runtime(format!("cannot start a thread for the chat template: {e}")))?;
    match receive.recv_timeout(TIME) {
        Ok(Ok(text)) if text.len() > MAX_OUTPUT => {
            Err(bad(&format!("gives {} bytes, at most {MAX_OUTPUT} are taken", text.len())))
        }
        Ok(Ok(text)) => Ok(text),
        Ok(Err(error)) => Err(bad(&format!("{error:#}"))),
        Err(_) => Err(bad(&format!("does not finish within {} s", TIME.as_secs()))),
    }
}

fn bad(problem: &str) -> Failure {
    Failure::BadFile(format!("the model's chat template: {problem}"))
}

fn render_here(
    template: &str,
    messages: &[Turn],
    asks: bool,
    bos: &str,
    eos: &str,
) -> Result<String, minijinja::Error> {
    let mut env = Environment::new();
    env.set_fuel(Some(FUEL));
    env.set_recursion_limit(100);
    env.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    env.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    env.add_function("raise_exception", |message: String| -> Result<String, minijinja::Error> {
        Err(minijinja::Error::new(ErrorKind::InvalidOperation, message))
    });
    // No clock: the same conversation gives the same prompt.
    env.add_function("strftime_now", |_format: String| "1 January 2025".to_owned());
    let template = env.template_from_str(template)?;
    template.render(context! {
        messages => messages.iter().map(to_value).collect::<Vec<_>>(),
        add_generation_prompt => asks,
        bos_token => bos,
        eos_token => eos,
        tools => (),
    })
}

fn to_value(turn: &Turn) -> Value {
    context! { role => turn.role.as_str(), content => turn.content.as_str() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chatml_template_gives_a_prompt() {
        let template = "{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'].strip() + '<|im_end|>\\n' }}\
                        {%- endfor %}{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}";
        let text = render(template, &[Turn::new("user", " Hi ")], true, "", "").unwrap();
        assert_eq!(text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n");
        let text = render(template, &[Turn::new("user", "Hi"), Turn::new("assistant", "Ho")], false, "", "").unwrap();
        assert_eq!(text, "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHo<|im_end|>\n");
    }

    #[test]
    fn hostile_templates_are_errors() {
        let chain = |piece: &str, end: &str| format!("{{{{ {}{end} }}}}", piece.repeat(60_000 / piece.len()));
        let all = [
            chain("-", "1"),
            chain("not ", "1"),
            chain("1+", "1"),
            chain("(", "1"),
            "{% for i in range(1000000000) %}x{% endfor %}".into(),
            "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}".into(),
            "{{ raise_exception('no') }}".into(),
            "{{ messages.__class__ }}{{ 1 +".into(),
            "x".repeat(MAX_TEMPLATE + 1),
        ];
        for template in all {
            match render(&template, &[Turn::new("user", "Hi")], true, "", "") {
                Err(Failure::BadFile(message)) => assert!(message.contains("chat template"), "{message}"),
                // A chain of signs is legal arithmetic; what matters is that it comes back.
                Ok(text) => assert!(text.len() < 100, "{} bytes", text.len()),
                Err(other) => panic!("{other:?}"),
            }
        }
    }
}
