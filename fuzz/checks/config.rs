//! Any text as a configuration file: a model that prints as itself, or mistakes that each name a line of it.

use tcplb::config::{diff, file, text};

/// Fails if a promise is broken.
pub fn check(bytes: &[u8]) {
    let Ok(written) = std::str::from_utf8(bytes) else { return };
    match file::parse(written, "f") {
        Ok(parsed) => {
            let model = parsed.on(2);
            let printed = text::print(&model);
            let again = file::parse(&printed, "printed").unwrap_or_else(|mistakes| panic!("{mistakes}\n{printed}"));
            assert_eq!(again.on(2), model, "{printed}");
            assert_eq!(diff::between(&model, &model), diff::Changes::default());
            assert_eq!(diff::merge(&model, &model, &model), model);
        }
        Err(mistakes) => have_their_lines(&mistakes, written),
    }
    if let Err(mistakes) = file::list::prefixes(written, "f") {
        assert!(!mistakes.0.is_empty() && mistakes.0.iter().all(|mistake| mistake.starts_with("f:")), "{mistakes}");
    }
}

fn have_their_lines(mistakes: &file::Mistakes, written: &str) {
    assert!(!mistakes.0.is_empty() && mistakes.0.len() <= file::MISTAKES_MAX + 1);
    let mut last = 1;
    for mistake in mistakes.0.iter().filter(|mistake| *mistake != "f: … and more") {
        let line: Option<usize> = mistake.strip_prefix("f:").and_then(|rest| rest.split(':').next()?.parse().ok());
        let line = line.unwrap_or_else(|| panic!("without a line: {mistake}"));
        assert!(line >= last && line <= written.lines().count() + 1, "{mistake}");
        assert!(!mistake.contains('\n'), "{mistake}");
        last = line;
    }
}
