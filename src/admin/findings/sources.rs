//! Findings about sources of backends, and about names that are looked up again.

use super::super::api::{Finding, NameView, PoolView, SourceView};
use super::super::figures;
use super::{NAMED, ago, warning};

/// Seconds without an answer of a source, or for a name, that are a finding. A source looks at least every 30 s, and a name that
/// fails is looked up as often.
const SILENT: u64 = 120;

/// `source etcd of pool web has not answered for 2 min, its 12 backends stay: …`.
pub fn source(pool: &PoolView, source: &SourceView) -> Option<Finding> {
    let SourceView { source: label, ok, last_success_seconds, backends, last_error, entries_left_out, .. } = source;
    let named = format!("source {label} of pool {}", pool.name);
    let stale = last_success_seconds.is_none_or(|seconds| seconds >= SILENT);
    let stay = match backends {
        0 => String::new(),
        1 => ", its backend stays".to_owned(),
        count => format!(", its {count} backends stay"),
    };
    let why = last_error.as_ref().map_or(String::new(), |why| format!(": {why}"));
    let text = match last_success_seconds {
        // It has a moment to answer for the first time.
        None if last_error.is_none() => return None,
        None => format!("{named} has not answered yet{stay}{why}"),
        Some(seconds) if stale => {
            format!("{named} has not answered for {}{stay}{}", ago(*seconds), if *ok { "" } else { &why })
        }
        Some(_) if !*ok && *entries_left_out > 1 => {
            let shown = figures::left_out(source, NAMED);
            format!("{named} has {entries_left_out} entries that are left out: {}", shown.join("; "))
        }
        Some(_) if !*ok => format!("{named} has an error{why}"),
        Some(_) => match (&source.kept_because, backends) {
            (Some(why), _) => format!("{named} keeps {} of its {backends} backends: {why}", source.kept),
            (None, 0) => format!("{named} finds no backend: it looks at {}", source.watches),
            _ => return None,
        },
    };
    Some(warning(text).of_pool(pool))
}

/// `name db.example of pool web has not resolved for 2 min, its addresses stay: …`.
pub fn name(pool: &PoolView, name: &NameView) -> Option<Finding> {
    let seconds = name.failing_seconds.filter(|seconds| *seconds >= SILENT)?;
    let why = name.last_error.as_ref().map_or(String::new(), |why| format!(": {why}"));
    let (name, time) = (&name.name, ago(seconds));
    let text = format!("name {name} of pool {} has not resolved for {time}, its addresses stay{why}", pool.name);
    Some(warning(text).of_pool(pool))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: SourceView) -> Option<String> {
        let pool = PoolView { name: "web".into(), ..PoolView::default() };
        super::source(&pool, &source).map(|finding| finding.text)
    }

    fn etcd() -> SourceView {
        SourceView {
            source: "etcd".into(),
            watches: "/web/ http://127.0.0.1:2379".into(),
            ok: true,
            last_success_seconds: Some(3),
            backends: 4,
            ..SourceView::default()
        }
    }

    #[test]
    fn a_source_that_finds_nothing_names_what_it_looks_at() {
        let want = "source etcd of pool web finds no backend: it looks at /web/ http://127.0.0.1:2379";
        assert_eq!(found(SourceView { backends: 0, ..etcd() }).as_deref(), Some(want));
        assert_eq!(found(etcd()), None);
        assert_eq!(found(SourceView { backends: 0, ok: false, last_success_seconds: None, ..etcd() }), None, "not yet");
    }

    #[test]
    fn backends_that_an_answer_lacks_and_entries_that_are_left_out_are_findings() {
        let why = Some("the answer is empty, and on_empty is keep".to_owned());
        let want = "source etcd of pool web keeps 4 of its 4 backends: the answer is empty, and on_empty is keep";
        assert_eq!(found(SourceView { kept: 4, kept_because: why, ..etcd() }).as_deref(), Some(want));
        let left_out: Vec<String> = (1..=5).map(|number| format!("web{number}: no address")).collect();
        let odd = SourceView { ok: false, entries_left_out: 9, left_out, last_error: Some("x".into()), ..etcd() };
        let want = "source etcd of pool web has 9 entries that are left out: web1: no address; web2: no address; web3: no \
                    address; and 6 more";
        assert_eq!(found(odd.clone()).as_deref(), Some(want));
        let one = SourceView { entries_left_out: 1, ..odd };
        assert_eq!(found(one).as_deref(), Some("source etcd of pool web has an error: x"));
    }
}
