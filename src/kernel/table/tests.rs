//! Names, states and binds as they are written.

use super::*;

#[test]
fn labels_hold_any_name_and_differ_as_names_do() {
    for (label, want) in [
        (Label::of_name("web"), "web"),
        (Label::of_backend("web", "10.0.0.1:80"), "web/10.0.0.1:80"),
        (Label::of_backend("a/b", "c d"), "a%2fb/c d"),
        (Label::of_name("\"\\%~\n\u{e9}"), "%22%5c%25%7e%0a%c3%a9"),
    ] {
        assert_eq!(label.as_str(), want);
        assert_eq!(Label::try_from(want.to_owned()), Ok(label));
    }
    let backend = Label::of_backend("a/b", "c");
    assert!(backend.is_of_pool("a/b") && !backend.is_of_pool("a") && !backend.is_of_pool("a/"));
    let long = |end: &str| Label::of_name(&format!("{}{end}", "n".repeat(127)));
    assert_eq!((long("a").as_str().len(), long("a") == long("b")), (64, false));
    let longest = Label::of_backend(&"p".repeat(128), &"b".repeat(128));
    assert_eq!(Label::try_from(longest.as_str().to_owned()), Ok(longest));
    for bad in ["a\"", "a\\", "a\n", &"a".repeat(128)] {
        assert!(Label::try_from(bad.to_owned()).is_err(), "{bad}");
    }
}

#[test]
fn states_are_read_as_they_are_written_and_fit_a_comment() {
    let (label, digest) = (Label::of_name(&"a name ".repeat(18)), Digest(7));
    let most = Limits { connections: Some(u32::MAX), rate: Some(u32::MAX) };
    for (denied, limits) in [(None, Limits::default()), (Some(Digest(u64::MAX)), most)] {
        let chain = InstalledChain { label: label.clone(), digest, denied, limits };
        assert!(Label::try_from(chain.text()).is_ok(), "{}", chain.text());
        assert_eq!(InstalledChain::parse(&chain.text()), Some(chain));
    }
    let choice = InstalledChoice { label: label.clone(), size: 655_373, digest, entries: None };
    assert_eq!(InstalledChoice::parse(&choice.text()), Some(choice));
    let source = InstalledSource { label, digest };
    assert_eq!(InstalledSource::parse(&source.text()), Some(source));
    for text in ["", "5", "5 7 a", "x 0000000000000007 a", "0000000000000007 - x - a"] {
        assert_eq!((InstalledChoice::parse(text), InstalledChain::parse(text)), (None, None), "{text}");
    }
}

#[test]
fn keys_of_state_are_one_to_one() {
    let mut values = vec![StateKey::Format];
    for number in [0, 1, Number::MAX] {
        let number = Number::new(number).unwrap();
        for family in Family::ALL {
            values.push(StateKey::Chain(ChainId { listener: number, family }));
            values.push(StateKey::Choice(PoolId { pool: number, family }));
            values.push(StateKey::Source(PoolId { pool: number, family }));
        }
    }
    for key in values {
        assert_eq!(StateKey::of_value(key.value()), Some(key));
    }
    assert_eq!((StateKey::of_value(5), StateKey::of_value(u32::MAX)), (None, None));
    assert!(Number::new(Number::MAX + 1).is_none());
}

#[test]
fn a_bind_covers_what_a_socket_there_covers() {
    let of = |asked: &str, at: &str| Bind::of(&Listen::parse(asked).unwrap(), at.parse().unwrap());
    let both = [Bind::Port(Family::V4, 80), Bind::Port(Family::V6, 80)];
    assert_eq!(of(":80", "[::]:80"), both);
    assert_eq!(of(":80", "0.0.0.0:80"), both);
    assert_eq!(of("[::]:80", "[::]:80"), both);
    assert_eq!(of("0.0.0.0:80", "0.0.0.0:80"), both[..1]);
    assert_eq!(of("a.test:80", "192.0.2.1:80"), [Bind::Address("192.0.2.1:80".parse().unwrap())]);
}
