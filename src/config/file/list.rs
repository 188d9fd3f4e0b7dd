//! The text of an `allow_file` or a `deny_file`: one prefix or address a line; what follows a `#` is a comment.

use super::Mistakes;
use crate::config::settings::kinds;
use ipnet::IpNet;
use std::sync::Arc;

/// Mistakes that are listed one by one. A path that was mistaken has one in each line.
const TOLD: usize = 20;

/// Reads such a text; `name` is what messages call the file.
pub fn prefixes(text: &str, name: &str) -> Result<Arc<[IpNet]>, Mistakes> {
    let (mut found, mut wrong, mut untold) = (Vec::new(), Vec::new(), 0_usize);
    for (number, line) in text.lines().enumerate() {
        let entry = line.split_once('#').map_or(line, |(entry, _)| entry).trim();
        if entry.is_empty() {
            continue;
        }
        match kinds::prefix(entry) {
            Ok(prefix) => found.push(prefix),
            Err(why) if wrong.len() < TOLD => wrong.push(format!("{name}:{}: {why}", number + 1)),
            Err(_) => untold += 1,
        }
    }
    if untold > 0 {
        wrong.push(format!("{name}: {untold} more lines like these"));
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
        let Mistakes(told) = prefixes("::ffff:10.0.0.0/95\n", "list").unwrap_err();
        assert!(told[0].contains("expected /96 or longer") && told[0].contains("0.0.0.0/0"), "{told:?}");
    }

    #[test]
    fn every_mistake_is_told_with_its_line_but_no_more_than_one_can_read() {
        let Mistakes(told) = prefixes("10.0.0.0/8\n10.0.0.0/33\nnobody\n", "list").unwrap_err();
        assert_eq!(told.len(), 2);
        assert!(told[0].starts_with("list:2: expected a prefix") && told[0].contains("10.0.0.0/33"), "{told:?}");
        let Mistakes(told) = prefixes(&"x\n".repeat(100), "list").unwrap_err();
        assert_eq!((told.len(), told[20].as_str()), (21, "list: 80 more lines like these"));
    }
}
