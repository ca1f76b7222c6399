//! The frame of an HTML report: one file, light, without anything that must be fetched.

use crate::svg::escape;

/// A whole page; `body` is HTML.
pub fn page(title: &str, body: &str) -> String {
    let title = escape(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n<title>{title}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<style>\n{STYLE}</style>\n</head>\n\
         <body>\n<h1>{title}</h1>\n{body}</body>\n</html>\n"
    )
}

/// A section with a heading; `body` is HTML.
pub fn section(heading: &str, body: &str) -> String {
    format!("<section>\n<h2>{}</h2>\n{body}</section>\n", escape(heading))
}

/// A paragraph of plain text.
pub fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", escape(text))
}

/// A table: the first column to the left, numbers to the right.
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let cell = |tag: &str, text: &str| format!("<{tag}>{}</{tag}>", escape(text));
    let head: String = head.iter().map(|text| cell("th", text)).collect();
    let row = |cells: &Vec<String>| format!("<tr>{}</tr>\n", cells.iter().map(|c| cell("td", c)).collect::<String>());
    let rows: String = rows.iter().map(row).collect();
    format!("<div class=\"wide\"><table>\n<tr>{head}</tr>\n{rows}</table></div>\n")
}

/// Large numbers with what they are: `(number, words)`.
pub fn cards(all: &[(String, String)]) -> String {
    let card = |(number, words): &(String, String)| {
        format!("<div class=\"card\"><b>{}</b><span>{}</span></div>\n", escape(number), escape(words))
    };
    format!("<div class=\"cards\">\n{}</div>\n", all.iter().map(card).collect::<String>())
}

const STYLE: &str = "\
body { max-width: 62rem; margin: 2rem auto; padding: 0 1.25rem; background: #fff; color: #1b2733; \
font: 16px/1.5 system-ui, 'DejaVu Sans', Arial, sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .75rem; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; border-bottom: 1px solid #d6dde4; padding-bottom: .25rem; }
p { margin: .4rem 0; max-width: 52rem; }
.note { color: #5b6875; font-size: .9rem; }
.warning { border-left: 4px solid #c77700; padding-left: .75rem; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
.card { flex: 1 1 11rem; border: 1px solid #d6dde4; border-radius: 8px; padding: .75rem 1rem; }
.card b { display: block; font-size: 1.7rem; line-height: 1.2; }
.card span { color: #5b6875; font-size: .9rem; }
.wide { overflow-x: auto; }
svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; font-size: .9rem; margin: .5rem 0; }
th, td { padding: .3rem .75rem; text-align: right; border-bottom: 1px solid #e6ebf0; font-variant-numeric: tabular-nums; }
th { color: #5b6875; font-weight: 600; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
pre { background: #f5f7f9; border-radius: 6px; padding: .75rem; margin: .25rem 0; white-space: pre-wrap; \
overflow-wrap: anywhere; font-size: .85rem; line-height: 1.4; }
.sides { display: grid; grid-template-columns: 1fr 1fr; gap: 1rem; }
.sides > div { min-width: 0; }
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_stays_text() {
        let page = page("a<b", &[paragraph("<i>"), table(&["&"], &[vec!["<td>".into()]])].concat());
        assert!(page.contains("<title>a&lt;b</title>") && page.contains("<p>&lt;i&gt;</p>"), "{page}");
        assert!(page.contains("<th>&amp;</th>") && page.contains("<td>&lt;td&gt;</td>"), "{page}");
    }
}
