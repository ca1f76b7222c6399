//! Rows of measurements as Markdown, CSV or JSON.

use std::io::{self, Write};

use serde_json::{Value, json};

use super::{Format, Row, Test, mean, standard_deviation};

pub(super) fn write(rows: &[Row], format: Format, out: &mut dyn Write) -> io::Result<()> {
    match format {
        Format::Md => markdown(rows, out),
        Format::Csv => csv(rows, out),
        Format::Json => {
            let all: Vec<Value> = rows.iter().map(to_json).collect();
            writeln!(out, "{:#}", Value::from(all))
        }
    }
}

/// Columns of the Markdown table, numbers to the right.
const COLUMNS: [(&str, bool); 12] = [
    ("model", false),
    ("size", true),
    ("params", true),
    ("threads", true),
    ("kernel", false),
    ("test", true),
    ("t/s", true),
    ("sparsity", true),
    ("encoding", false),
    ("bytes/token", true),
    ("GB/s", true),
    ("of bandwidth", true),
];

fn markdown(rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
    let cells: Vec<_> = rows.iter().map(cells).collect();
    let width = |column: usize| {
        let own = cells.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
        own.max(COLUMNS[column].0.len())
    };
    let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
    let head = COLUMNS.map(|(name, _)| name.to_owned());
    line(&head, &widths, out)?;
    for ((_, right), width) in COLUMNS.iter().zip(&widths) {
        write!(out, "| {}{} ", "-".repeat(width - 1), if *right { ":" } else { "-" })?;
    }
    writeln!(out, "|")?;
    cells.iter().try_for_each(|row| line(row, &widths, out))?;
    match rows.iter().find_map(|row| row.bandwidth) {
        Some(_) => writeln!(out, "\n{}", bandwidths(rows)),
        None => Ok(()),
    }
}

fn line(cells: &[String], widths: &[usize], out: &mut dyn Write) -> io::Result<()> {
    for ((cell, width), (_, right)) in cells.iter().zip(widths).zip(COLUMNS) {
        match right {
            true => write!(out, "| {cell:>width$} ")?,
            false => write!(out, "| {cell:<width$} ")?,
        }
    }
    writeln!(out, "|")
}

fn cells(row: &Row) -> [String; COLUMNS.len()] {
    let speeds = row.speeds();
    let decodes = matches!(row.test, Test::Generate(_));
    [
        // A name may hold what would end the cell or the line.
        row.model.chars().map(|c| if c == '|' || c.is_control() { '\u{FFFD}' } else { c }).collect(),
        binary_size(row.size),
        count(row.params),
        row.threads.to_string(),
        row.kernel.to_owned(),
        row.test.name(),
        format!("{:.2} ± {:.2}", mean(&speeds), standard_deviation(&speeds)),
        format!("{:.3}", row.sparsity),
        row.encoding.to_owned(),
        if decodes { row.bytes_per_token.to_string() } else { String::new() },
        row.read_speed().map_or_else(String::new, |v| format!("{:.2}", v / 1e9)),
        row.share().map_or_else(String::new, |v| format!("{:.0} %", v * 100.0)),
    ]
}

/// What the last column is a share of, for each number of threads.
fn bandwidths(rows: &[Row]) -> String {
    let mut all: Vec<(usize, f64)> = rows.iter().filter_map(|r| Some((r.threads, r.bandwidth? / 1e9))).collect();
    all.dedup();
    let each: Vec<String> = all.iter().map(|(threads, speed)| format!("{speed:.2} GB/s ({threads} threads)")).collect();
    format!("Read bandwidth of this machine: {}", each.join(", "))
}

/// As llama-bench writes sizes.
fn binary_size(bytes: u64) -> String {
    match bytes as f64 / (1u64 << 20) as f64 {
        mib if mib >= 1024.0 => format!("{:.2} GiB", mib / 1024.0),
        mib => format!("{mib:.2} MiB"),
    }
}

/// As llama-bench writes numbers of parameters.
fn count(n: u64) -> String {
    match n as f64 {
        n if n >= 1e9 => format!("{:.2} B", n / 1e9),
        n => format!("{:.2} M", n / 1e6),
    }
}

fn csv(rows: &[Row], out: &mut dyn Write) -> io::Result<()> {
    for (i, row) in rows.iter().enumerate() {
        let fields = fields(row);
        if i == 0 {
            writeln!(out, "{}", fields.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(","))?;
        }
        writeln!(out, "{}", fields.iter().map(|(_, value)| quoted(value)).collect::<Vec<_>>().join(","))?;
    }
    Ok(())
}

/// Every value in quotes, as llama-bench writes them; nothing for none.
fn quoted(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
        other => format!("\"{other}\""),
    }
}

fn to_json(row: &Row) -> Value {
    let mut all: serde_json::Map<_, _> = fields(row).into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
    let nanoseconds: Vec<u64> = row.times.iter().map(|t| t.as_nanos() as u64).collect();
    all.insert("samples_ns".into(), json!(nanoseconds));
    all.insert("samples_ts".into(), json!(row.speeds()));
    Value::Object(all)
}

fn fields(row: &Row) -> Vec<(&'static str, Value)> {
    let nanoseconds: Vec<f64> = row.times.iter().map(|t| t.as_nanos() as f64).collect();
    let speeds = row.speeds();
    let (n_prompt, n_gen) = match row.test {
        Test::Prompt(n) => (n, 0),
        Test::Generate(n) => (0, n),
    };
    vec![
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("model", json!(row.model)),
        ("dense", json!(row.dense)),
        ("model_size", json!(row.size)),
        ("model_n_params", json!(row.params)),
        ("n_threads", json!(row.threads)),
        ("kernel", json!(row.kernel)),
        ("n_prompt", json!(n_prompt)),
        ("n_gen", json!(n_gen)),
        ("test", json!(row.test.name())),
        ("avg_ns", json!(mean(&nanoseconds) as u64)),
        ("stddev_ns", json!(standard_deviation(&nanoseconds) as u64)),
        ("avg_ts", json!(mean(&speeds))),
        ("stddev_ts", json!(standard_deviation(&speeds))),
        ("sparsity", json!(row.sparsity)),
        ("encoding", json!(row.encoding)),
        ("bytes_per_token", json!(row.bytes_per_token)),
        ("read_bytes_per_second", json!(row.read_speed())),
        ("bandwidth_bytes_per_second", json!(row.bandwidth)),
        ("share_of_bandwidth", json!(row.share())),
    ]
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn row(test: Test) -> Row {
        Row {
            model: "a|b \"c\".spm".into(),
            dense: false,
            size: 108_212_224,
            params: 134_515_008,
            threads: 2,
            kernel: "portable",
            test,
            times: [100, 50].map(Duration::from_millis).to_vec(),
            sparsity: 0.5,
            encoding: "sparse-q8",
            bytes_per_token: 1_000_000_000,
            bandwidth: Some(45e9),
        }
    }

    fn written(rows: &[Row], format: Format) -> String {
        let mut out = Vec::new();
        write(rows, format, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_table_for_people() {
        let text = written(&[row(Test::Prompt(512)), row(Test::Generate(2))], Format::Md);
        let lines: Vec<&str> = text.lines().collect();
        let cells = |line: &str| line.split('|').map(|c| c.trim().to_owned()).collect::<Vec<_>>();
        assert_eq!(cells(lines[0]).len(), COLUMNS.len() + 2);
        assert!(lines[..4].iter().all(|l| l.chars().count() == lines[0].chars().count()), "{text}");
        let pp = cells(lines[2]);
        assert_eq!(&pp[2..8], ["103.20 MiB", "134.52 M", "2", "portable", "pp512", "7680.00 ± 3620.39"]);
        assert_eq!(&pp[10..13], ["", "", ""], "a prompt does not read all weights for each token");
        assert_eq!(
            &cells(lines[3])[6..13],
            ["tg2", "30.00 ± 14.14", "0.500", "sparse-q8", "1000000000", "30.00", "67 %"]
        );
        assert_eq!(lines[5], "Read bandwidth of this machine: 45.00 GB/s (2 threads)");
    }

    #[test]
    fn tables_for_programs() {
        let mut rows = [row(Test::Generate(2))];
        let all: Value = serde_json::from_str(&written(&rows, Format::Json)).unwrap();
        assert_eq!(all[0]["avg_ts"], 30.0);
        assert_eq!(all[0]["samples_ns"], json!([100_000_000, 50_000_000]));
        assert_eq!((&all[0]["n_prompt"], &all[0]["n_gen"]), (&json!(0), &json!(2)));
        rows[0].bandwidth = None;
        let text = written(&rows, Format::Csv);
        let (head, line) = text.split_once('\n').unwrap();
        assert!(head.starts_with("version,model,") && line.contains(",\"a|b \"\"c\"\".spm\","), "{text}");
        assert!(line.ends_with("\"30000000000.0\",,\n"), "{text}");
    }
}
