//! `GET /`: the status page. The page contains the first state, so it reads without JavaScript. With JavaScript, the
//! page polls `/v1/status`. Its style and its scripts are files beside it, embedded in the one answer.
//!
//! Self-contained: its Content-Security-Policy forbids loading or sending anything elsewhere. Names are data: escaped
//! here, set through text nodes in the scripts; `require-trusted-types-for` keeps the scripts from parsing markup.
//!
//! A caller without the token gets the page without data, and the page asks for the token.

use super::api::{PoolView, Status};
use super::figures::{BACKENDS, Column, LISTENERS};
use super::http::Response;
use std::fmt::Write;

/// The media type of the page.
pub const CONTENT_TYPE: &str = "text/html; charset=utf-8";

const TEMPLATE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
/// One script: later files use what earlier ones declare.
const SCRIPT: &str = concat!(
    include_str!("page/dom.js"),
    include_str!("page/api.js"),
    include_str!("page/pools.js"),
    include_str!("page/ask.js"),
    include_str!("page/panel.js"),
    include_str!("page/view.js"),
    include_str!("page/main.js"),
);
const LOCKED: &str = "<noscript><p>The admin API expects a token. The page needs JavaScript to send it.</p></noscript>";

/// Renders the page with this state, or without any for a caller that may not see it.
pub fn page(status: Option<&Status>) -> Response {
    let (process, main) = status.map_or_else(|| (String::new(), LOCKED.to_owned()), content);
    let access = if status.is_some() { "open" } else { "locked" };
    let nonce = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
    // `main` is substituted last, so a name that looks like a placeholder is never substituted.
    let html = [
        ("{{style}}", STYLE),
        ("{{script}}", SCRIPT),
        ("{{nonce}}", &nonce),
        ("{{access}}", access),
        ("{{process}}", &process),
        ("{{main}}", &main),
    ]
    .into_iter()
    .fold(TEMPLATE.to_owned(), |html, (place, text)| html.replace(place, text));
    let policy = format!(
        "default-src 'none'; img-src data:; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    );
    Response::text(200, CONTENT_TYPE, html)
        .with("Content-Security-Policy", policy)
        .with("Referrer-Policy", "no-referrer")
}

/// The state of the process, and the tables.
fn content(status: &Status) -> (String, String) {
    let mut main = String::new();
    push(&mut main, format_args!("<p><b>{}</b></p><h2>Listeners</h2>", Escaped(&status.verdict.text)));
    table(&mut main, LISTENERS, &status.listeners);
    for PoolView { name, algorithm, backends, .. } in &status.pools {
        push(&mut main, format_args!("<h2>{} <small>{}</small></h2>", Escaped(name), Escaped(algorithm)));
        table(&mut main, BACKENDS, backends);
    }
    let Status { version, state, uptime_seconds, generation, .. } = status;
    (format!("{version} · {state} · up {uptime_seconds} s · generation {generation}"), main)
}

fn table<T>(html: &mut String, columns: &[Column<T>], rows: &[T]) {
    html.push_str("<div class=\"scroll\"><table><thead><tr>");
    for column in columns {
        push(html, format_args!("<th>{}</th>", column.head));
    }
    html.push_str("</tr></thead><tbody>");
    for row in rows {
        html.push_str("<tr>");
        for column in columns {
            let cell = (column.cell)(row);
            push(html, format_args!("<td>{}</td>", Escaped(cell.as_deref().unwrap_or("–"))));
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table></div>");
}

fn push(html: &mut String, part: std::fmt::Arguments<'_>) {
    // Writing to a string can't fail.
    let _ = html.write_fmt(part);
}

/// Escapes text for HTML content.
struct Escaped<'a>(&'a str);

impl std::fmt::Display for Escaped<'_> {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for letter in self.0.chars() {
            match letter {
                '&' => out.write_str("&amp;")?,
                '<' => out.write_str("&lt;")?,
                '>' => out.write_str("&gt;")?,
                '"' => out.write_str("&quot;")?,
                '\'' => out.write_str("&#39;")?,
                other => out.write_char(other)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::api::BackendView;
    use super::super::figures::{LIVE, TRAFFIC};
    use super::*;

    #[test]
    fn the_columns_of_a_backend_have_the_heads_of_the_command_line() {
        let script = include_str!("page/pools.js");
        for column in TRAFFIC.iter().chain(LIVE) {
            assert!(script.contains(&format!("head: \"{}\"", column.head)), "the page has no column `{}`", column.head);
        }
    }

    #[test]
    fn the_page_knows_the_words_of_the_api() {
        let named = |text: &str| SCRIPT.contains(&format!("\"{text}\""));
        assert!(crate::inspect::Sort::NAMES.iter().all(|(word, _)| named(word)));
    }

    #[test]
    fn names_that_look_like_html_or_placeholders_stay_text() {
        let backend = BackendView {
            name: "<script>alert(1)</script>".into(),
            address: "{{nonce}}".into(),
            backup: true,
            ..BackendView::default()
        };
        let pool = PoolView { name: "a&b".into(), backends: vec![backend], ..PoolView::default() };
        let status = Status { pools: vec![pool], ..Status::default() };
        let response = page(Some(&status));
        let html = String::from_utf8(response.body).unwrap();
        assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;") && !html.contains("<script>alert"));
        assert!(html.contains("<td>{{nonce}}</td>") && html.contains("<h2>a&amp;b <small>"));
        let policy = &response.headers.iter().find(|(name, _)| *name == "Content-Security-Policy").unwrap().1;
        let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
        assert_eq!(html.matches(&format!("nonce=\"{nonce}\"")).count(), 2);
        assert!(!html.contains("src=") && !html.contains("http://") && !html.contains("https://"));
    }
}
