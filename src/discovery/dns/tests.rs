use super::super::Value;
use super::*;

fn settings(values: &[(&'static str, Value)]) -> Settings {
    let mut settings = Settings::new(&DNS);
    values.iter().for_each(|(key, value)| settings.set(key, value.clone()));
    settings
}

fn wrong(values: &[(&'static str, Value)]) -> String {
    let Wrong { key, why } = check(&settings(values)).unwrap_err();
    format!("{key}: {why}")
}

fn text(text: &str) -> Value {
    Value::Text(text.to_owned())
}

#[test]
fn settings_name_one_target_and_its_bounds() {
    let name = ("name", text("web.lan:80"));
    for values in [
        vec![name.clone()],
        vec![("srv", text("_pg._tcp.example.com."))],
        vec![name.clone(), ("resolvers", Value::Texts(vec!["10.0.0.1".into(), "::1".into(), "[::1]:5353".into()]))],
        vec![name.clone(), ("min_interval", Value::Time(Duration::from_secs(60)))],
        vec![name.clone(), ("max_interval", Value::Time(Duration::from_millis(500)))],
    ] {
        assert_eq!(check(&settings(&values)), Ok(()), "{values:?}");
    }
    assert_eq!(wrong(&[]), ": expected `name` or `srv`, got neither");
    assert_eq!(wrong(&[name.clone(), ("srv", text("_a._tcp.b"))]), "srv: expected either `name` or `srv`, got both");
    for (bad, values) in [
        ("name: expected a name and a port", [("name", text("10.0.0.1:80")), name.clone()].as_slice()),
        ("name: ", &[("name", text("web.lan"))]),
        ("srv: expected the name of SRV records", &[("srv", text("web.lan"))]),
        ("srv: expected the name of SRV records", &[("srv", text("_a._tcp..b"))]),
        (
            "resolvers: expected the address of a name server",
            &[name.clone(), ("resolvers", Value::Texts(vec!["ns".into()]))],
        ),
        ("min_interval: expected at least 100ms", &[name.clone(), ("min_interval", Value::Time(Duration::ZERO))]),
        (
            "max_interval: expected at least min_interval, which is 9s, got 8s",
            &[
                name.clone(),
                ("min_interval", Value::Time(Duration::from_secs(9))),
                ("max_interval", Value::Time(Duration::from_secs(8))),
            ],
        ),
    ] {
        let values = if bad.starts_with("name: expected a name") { &values[..1] } else { values };
        assert!(wrong(values).starts_with(bad), "{bad}: {}", wrong(values));
    }
}

fn service(priority: u16, weight: u16, port: u16, target: &str) -> Service {
    Service { priority, weight, port, target: target.to_owned() }
}

fn holding(addresses: &[(&str, &[&str])]) -> Targets {
    let until = Instant::now();
    let found =
        |list: &[&str]| Addresses { list: list.iter().map(|ip| ip.parse().unwrap()).collect(), ..Addresses::default() };
    addresses.iter().map(|(name, list)| ((*name).to_owned(), (Ok(found(list)), until))).collect()
}

#[test]
fn services_become_backends_with_weights_and_backups() {
    let services = [
        service(1, 0, 80, "a.lan"),
        service(2, 7, 80, "b.lan"),
        service(2, 9, 80, "a.lan"),
        service(1, 5, 0, "a.lan"),
        service(1, 5, 81, "gone.lan"),
        service(0, 5, 81, ""),
    ];
    let targets = holding(&[("a.lan", &["10.0.0.1", "10.0.0.2"]), ("b.lan", &["10.0.0.3"]), ("gone.lan", &[])]);
    let services = distinct(services.to_vec());
    let mut items = items(&services, &targets, &super::super::Set::new());
    rank(&mut items, &services, &super::super::Set::new(), &mut Priorities::new());
    let shown: Vec<String> = items
        .iter()
        .map(|item| match &item.found {
            Ok(found) => {
                format!("{} {} {:?} {:?}", item.key, found.address, found.weight.unwrap(), found.backup.unwrap())
            }
            Err(why) => format!("{} {why}", item.key),
        })
        .collect();
    assert_eq!(
        shown,
        [
            "a.lan:0 expected a port from 1 to 65535, got 0",
            "a.lan:80 10.0.0.1:80 1 false",
            "b.lan:80 10.0.0.3:80 7 true",
            "gone.lan:81 gone.lan has no address",
        ]
    );
}

#[test]
fn a_service_that_stays_beside_an_answer_keeps_its_priority() {
    let targets = holding(&[("p.lan", &["10.0.0.1"]), ("b1.lan", &["10.0.0.2"]), ("b2.lan", &["10.0.0.3"])]);
    let (mut set, mut priorities) = (super::super::Set::new(), Priorities::new());
    let mut primaries = |services: &[Service], stay: &[&str]| -> Vec<String> {
        let mut all = items(services, &targets, &set);
        all.extend(stay.iter().map(|key| Item::new(*key, Ok(set[*key].clone()))));
        rank(&mut all, services, &set, &mut priorities);
        set = all.into_iter().map(|item| (item.key, item.found.unwrap())).collect();
        let primaries = set.iter().filter(|(_, found)| found.backup == Some(false));
        primaries.map(|(key, _)| key.clone()).collect()
    };
    let primary = service(10, 1, 80, "p.lan");
    let backups = ["b1.lan", "b2.lan"].map(|target| service(20, 1, 80, target));
    assert_eq!(primaries(&backups, &[]), ["b1.lan:80", "b2.lan:80"]);
    assert_eq!(primaries(&[primary, backups[0].clone()], &["b2.lan:80"]), ["p.lan:80"], "b2 is a backup now");
    assert_eq!(primaries(&backups, &["p.lan:80"]), ["p.lan:80"], "a part of the answer");
    assert_eq!(primaries(&backups, &[]), ["b1.lan:80", "b2.lan:80"], "the primary has left");
}

#[test]
fn a_service_keeps_its_address_while_its_target_has_it() {
    let services = [service(1, 1, 80, "a.lan")];
    let mut set = super::super::Set::new();
    let mut now = |addresses: &[&str]| {
        let item = items(&services, &holding(&[("a.lan", addresses)]), &set).remove(0);
        let found = item.found.unwrap();
        set.insert(item.key, found.clone());
        found.address.to_string()
    };
    assert_eq!(now(&["10.0.0.1", "10.0.0.2"]), "10.0.0.1:80");
    assert_eq!(now(&["10.0.0.2", "10.0.0.1"]), "10.0.0.1:80");
    assert_eq!(now(&["10.0.0.2"]), "10.0.0.2:80");
}

#[test]
fn a_service_keeps_an_address_of_a_family_that_is_not_known() {
    let services = [service(1, 1, 80, "a.lan")];
    let mut targets = holding(&[("a.lan", &["fd00::1"])]);
    let first = items(&services, &targets, &super::super::Set::new()).remove(0);
    let before = super::super::Set::from([(first.key, first.found.unwrap())]);
    targets = holding(&[("a.lan", &["10.0.0.1"])]);
    let found = &mut targets.get_mut("a.lan").unwrap().0;
    found.as_mut().unwrap().incomplete = Some("name server 10.0.0.9:53: answered SERVFAIL".to_owned());
    let now = items(&services, &targets, &before);
    assert_eq!(now[0].found.as_ref().unwrap().address.to_string(), "[fd00::1]:80");
    let error = Item::new("IPv6 addresses of a.lan", Err("name server 10.0.0.9:53: answered SERVFAIL".to_owned()));
    assert_eq!(now[1..], [error]);
}
