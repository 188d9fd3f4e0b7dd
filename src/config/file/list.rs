//! The text of an `allow_file` or a `deny_file`: one prefix or address a line; what follows a `#` is a comment.

use super::Mistakes;
use crate::config::settings::kinds;
use ipnet::IpNet;
use std::sync::Arc;

/// Mistakes that are listed one by one. A file given by mistake has one in each line.
const LISTED: usize = 20;

/// Reads such a text; `name` is what messages call the file.
pub fn prefixes(text: &str, name: &str) -> Result<Arc<[IpNet]>, Mistakes> {
    let (mut found, mut wrong, mut unlisted) = (Vec::new(), Vec::new(), 0_usize);
    for (number, line) in text.lines().enumerate() {
        let entry = line.split_once('#').map_or(line, |(entry, _)| entry).trim();
        if entry.is_empty() {
            continue;
        }
        match kinds::prefix(entry) {
            Ok(prefix) => found.push(prefix),
            Err(why) if wrong.len() < LISTED => wrong.push(format!("{name}:{}: {why}", number + 1)),
            Err(_) => unlisted += 1,
        }
    }
    if unlisted > 0 {
        wrong.push(format!("{name}: {unlisted} more lines like these"));
    }
    if wrong.is_empty() { Ok(found.into()) } else { Err(Mistakes(wrong)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_a_prefix_an_address_a_comment_or_nothing() {
        let text = "# from https://example.org\r\n\n 192.0.2.0/24 # why\n2001:db8::1\n";
        let found = prefixes(text, "list").unwrap();
        assert_eq!(*found, ["192.0.2.0/24".parse().unwrap(), "2001:db8::1/128".parse().unwrap()]);
    }

    #[test]
    fn an_ipv4_mapped_prefix_is_the_ipv4_prefix() {
        let text = "::ffff:10.0.0.0/104\n::ffff:127.0.0.1\n::ffff:0:0/96\n::ffff:10.1.2.3/112\n::/0\n";
        let want = ["10.0.0.0/8", "127.0.0.1/32", "0.0.0.0/0", "10.1.0.0/16", "::/0"].map(|net| net.parse().unwrap());
        assert_eq!(*prefixes(text, "list").unwrap(), want);
        let Mistakes(mistakes) = prefixes("::ffff:10.0.0.0/95\n", "list").unwrap_err();
        assert!(mistakes[0].contains("expected /96 or longer") && mistakes[0].contains("0.0.0.0/0"), "{mistakes:?}");
    }

    #[test]
    fn mistakes_are_reported_with_their_lines_up_to_a_bound() {
        let Mistakes(mistakes) = prefixes("10.0.0.0/8\n10.0.0.0/33\nnobody\n", "list").unwrap_err();
        assert_eq!(mistakes.len(), 2);
        assert!(
            mistakes[0].starts_with("list:2: expected a prefix") && mistakes[0].contains("10.0.0.0/33"),
            "{mistakes:?}"
        );
        let Mistakes(mistakes) = prefixes(&"x\n".repeat(100), "list").unwrap_err();
        assert_eq!((mistakes.len(), mistakes[20].as_str()), (21, "list: 80 more lines like these"));
    }
}
