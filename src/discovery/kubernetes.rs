//! `kind = "kubernetes"`: the endpoints of a Service, from its EndpointSlices.
//!
//! A list, then a watch from the list's `resourceVersion`, by
//! <https://kubernetes.io/docs/reference/using-api/api-concepts/>. A watch that ends goes on from the last version seen, which
//! bookmarks renew. After [`FOLLOW`], or once the server has forgotten the version (410), the slices are listed again. So a
//! change that was missed is repaired. `slices` makes backends of the slices.

mod slices;

use super::http::{self, Answer, Client, Next, TlsFiles};
use super::pace::Pace;
use super::{BACKENDS_MAX, Feed, Key, Kind, Settings, Takes, Wrong};
use crate::small_file;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
pub use slices::Slices;
use std::env;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What a pod finds of its service account.
const ACCOUNT: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The kind of list that is asked for.
const LIST: &str = "EndpointSliceList";
/// How long a list is followed by watches.
const FOLLOW: Duration = Duration::from_secs(25);
/// How much longer a call may take than the server was asked for.
const LATE: Duration = Duration::from_secs(3);
/// Slices of one page.
const PAGE: usize = 500;
/// The most pages of a list.
const PAGES_MAX: usize = 1000;
/// The most bytes of all slices.
const BYTES_MAX: usize = 64 << 20;
/// The longest token.
const TOKEN_MAX: u64 = 64 << 10;

/// The kind.
pub static KUBERNETES: Kind = Kind {
    name: "kubernetes",
    doc: "The endpoints of a Kubernetes Service, from its EndpointSlices. A pod needs only `service`.",
    keys: &[
        Key {
            name: "namespace",
            takes: Takes::Text,
            doc: "The namespace of the Service; needed with `api`.",
            absent: "the pod's own",
            example: "\"default\"",
        },
        Key {
            name: "service",
            takes: Takes::Text,
            doc: "The Service; its backends are named by their pods.",
            absent: "required",
            example: "\"web\"",
        },
        Key {
            name: "port",
            takes: Takes::Text,
            doc: "The name of a port of the Service, or the number of a port of its pods.",
            absent: "the only port",
            example: "\"http\"",
        },
        Key {
            name: "api",
            takes: Takes::Text,
            doc: "The API server.",
            absent: "that of the pod's cluster",
            example: "\"https://10.0.0.1:6443\"",
        },
        Key {
            name: "token_file",
            takes: Takes::File,
            doc: "A file with a bearer token; read for each call, as tokens expire.",
            absent: "that of the pod's service account; with `api`, no token",
            example: "\"/etc/tcplb/kubernetes.token\"",
        },
        Key {
            name: "ca_file",
            takes: Takes::File,
            doc: "The authorities that HTTPS trusts, in PEM.",
            absent: "that of the pod's service account; with `api`, those of the system",
            example: "\"/etc/tcplb/kubernetes-ca.pem\"",
        },
    ],
    watches: &["namespace", "service", "port", "api"],
    reads,
    check,
    run,
};

fn check(settings: &Settings) -> Result<(), Wrong> {
    for key in ["namespace", "service", "port"] {
        let is_name = |text: &str| {
            (1..=253).contains(&text.len())
                && !text.starts_with(['.', '-'])
                && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte))
        };
        if let Some(text) = settings.text(key).filter(|text| !is_name(text)) {
            let why = format!("expected lower-case letters, digits and -, got `{}`", super::entry::shown(text));
            return Err(Wrong::new(key, why));
        }
    }
    if settings.text("port").is_some_and(|port| port.parse::<u64>().is_ok_and(|port| !(1..65536).contains(&port))) {
        return Err(Wrong::new("port", "expected a name, or a number from 1 to 65535"));
    }
    match settings.text("api").map(http::server) {
        Some(Err(why)) => Err(Wrong::new("api", why)),
        Some(Ok(_)) if settings.text("namespace").is_none() => {
            Err(Wrong::new("namespace", "it is needed with `api`: only a pod has a namespace of its own"))
        }
        _ => Ok(()),
    }
}

/// What it reads of the pod's service account. The kubelet replaces these files.
fn reads(settings: &Settings) -> Vec<PathBuf> {
    let in_pod = settings.text("api").is_none();
    let files = [("token_file", "token"), ("ca_file", "ca.crt"), ("namespace", "namespace")];
    let used = files.into_iter().filter(|(key, _)| in_pod && settings.value(key).is_none());
    used.map(|(_, file)| Path::new(ACCOUNT).join(file)).collect()
}

/// Where the slices are, and what opens the door.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    server: String,
    path: String,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
}

impl Place {
    fn of(settings: &Settings, environment: impl Fn(&str) -> Option<String>, account: &Path) -> Result<Place, String> {
        let own = |key: &str| settings.file(key).map(Path::to_owned);
        let (server, token_file, ca_file) = match settings.text("api") {
            Some(api) => (http::server(api)?, own("token_file"), own("ca_file")),
            None => {
                let parts = environment("KUBERNETES_SERVICE_HOST").zip(environment("KUBERNETES_SERVICE_PORT"));
                let (host, port) = parts.ok_or(
                    "no KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT: outside of a pod, `api` names the server",
                )?;
                let host = if host.contains(':') { format!("[{host}]") } else { host };
                let token = own("token_file").unwrap_or_else(|| account.join("token"));
                let ca = own("ca_file").unwrap_or_else(|| account.join("ca.crt"));
                (http::server(&format!("https://{host}:{port}"))?, Some(token), Some(ca))
            }
        };
        let namespace = match settings.text("namespace") {
            Some(namespace) => namespace.to_owned(),
            None => small_file::read_token(&account.join("namespace"), TOKEN_MAX)?,
        };
        let (namespace, service) = (http::encoded(&namespace), http::encoded(settings.text("service").unwrap_or("")));
        let path = format!(
            "/apis/discovery.k8s.io/v1/namespaces/{namespace}/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3D{service}"
        );
        Ok(Place { server, path, token_file, ca_file })
    }

    /// A GET with these parameters. A token that was renewed is used at once.
    fn get(&self, client: &Client, parameters: &str) -> Result<Answer, String> {
        let mut call = client.get(&self.server, &format!("{}{parameters}", self.path));
        if let Some(file) = &self.token_file {
            let token = small_file::read_token(file, TOKEN_MAX)?;
            call = call.header("Authorization", &format!("Bearer {token}")).hiding(token);
        }
        call.send()
    }
}

fn run(settings: &Settings, feed: &mut Feed) -> Result<(), String> {
    let mut slices = Slices::new(settings.text("port"));
    let mut pace = Pace::default();
    while pace.wait(feed) {
        let place = Place::of(settings, |name| env::var(name).ok(), Path::new(ACCOUNT))?;
        let client = Client::new(TlsFiles { ca: place.ca_file.as_deref(), ..TlsFiles::default() })?;
        let Some(mut version) = list(&place, &client, &mut slices)? else { continue };
        slices.hand_over(feed)?;
        let until = Instant::now() + FOLLOW;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            if left.as_secs() == 0 || !pace.wait(feed) {
                break;
            }
            let watch = Watch { place: &place, client: &client, left };
            if watch.follow(&mut version, &mut slices, feed)? == Outcome::Gone {
                break;
            }
        }
    }
    Ok(())
}

#[derive(Deserialize)]
struct List {
    #[serde(default)]
    kind: String,
    #[serde(default)]
    metadata: Metadata,
    #[serde(deserialize_with = "http::list::<BACKENDS_MAX, _, _>")]
    items: Vec<Box<RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    resource_version: String,
    r#continue: Option<String>,
}

/// What the API answers instead of what was asked for, and sends as an event.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    code: u16,
    message: String,
}

/// Lists all slices, and returns their version; `None`: the server has forgotten the version within the list.
fn list(place: &Place, client: &Client, slices: &mut Slices) -> Result<Option<String>, String> {
    let (mut items, mut bytes, mut page) = (Vec::new(), 0, String::new());
    for _ in 0..PAGES_MAX {
        let answer = place.get(client, &format!("&limit={PAGE}{page}"))?;
        match answer.status {
            200 => {}
            410 => return Ok(None),
            _ => return Err(refused(&place.server, answer)),
        }
        let List { kind, metadata, items: more } = answer.json()?;
        if kind != LIST {
            return Err(format!(
                "{}: expected a list of kind {LIST}, got `{}`",
                place.server,
                super::entry::shown(&kind)
            ));
        }
        bytes += more.iter().map(|slice| slice.get().len()).sum::<usize>();
        items.extend(more);
        if bytes > BYTES_MAX || items.len() > BACKENDS_MAX {
            let (mebibytes, server) = (BYTES_MAX >> 20, &place.server);
            return Err(format!("{server}: the list has more than {mebibytes} MiB or {BACKENDS_MAX} slices"));
        }
        match metadata.r#continue.filter(|token| !token.is_empty()) {
            Some(token) => page = format!("&continue={}", http::encoded(&token)),
            None => {
                slices.replace(&items);
                return Ok(Some(metadata.resource_version));
            }
        }
    }
    Err(format!("{}: the list has more than {PAGES_MAX} pages", place.server))
}

fn refused(server: &str, answer: Answer) -> String {
    let status = answer.status;
    let why: Option<Status> = serde_json::from_slice(&answer.refusal()).ok();
    http::failure(server, status, &why.unwrap_or_default().message)
}

#[derive(Deserialize)]
struct Event {
    r#type: String,
    object: Value,
}

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// It can go on from the version.
    Ended,
    /// The server has forgotten the version.
    Gone,
}

struct Watch<'a> {
    place: &'a Place,
    client: &'a Client,
    left: Duration,
}

impl Watch<'_> {
    fn follow(&self, version: &mut String, slices: &mut Slices, feed: &mut Feed) -> Result<Outcome, String> {
        let server = &self.place.server;
        let client = self.client.within(self.left + LATE);
        let (from, seconds) = (http::encoded(version), self.left.as_secs());
        let parameters =
            format!("&watch=true&allowWatchBookmarks=true&resourceVersion={from}&timeoutSeconds={seconds}");
        let answer = self.place.get(&client, &parameters)?;
        match answer.status {
            200 => {}
            410 => return Ok(Outcome::Gone),
            _ => return Err(refused(server, answer)),
        }
        let mut events = answer.values::<Event>();
        while let Next::Value(event) = events.wait()? {
            match event.r#type.as_str() {
                "ADDED" | "MODIFIED" => slices.put(event.object.clone()),
                "DELETED" => slices.remove(&event.object),
                "BOOKMARK" => {}
                "ERROR" => {
                    let why: Status = serde_json::from_value(event.object).unwrap_or_default();
                    return match why.code {
                        410 => Ok(Outcome::Gone),
                        code => Err(http::failure(server, code, &why.message)),
                    };
                }
                // A kind of event that is newer than this program: the next list has what it says.
                _ => continue,
            }
            if let Some(new) = event.object.pointer("/metadata/resourceVersion").and_then(Value::as_str) {
                new.clone_into(version);
            }
            if event.r#type == "BOOKMARK" {
                feed.answered();
            } else {
                slices.hand_over(feed)?;
            }
            if feed.is_stopped() {
                break;
            }
        }
        Ok(Outcome::Ended)
    }
}

#[cfg(test)]
mod tests {
    use super::super::Value as Given;
    use super::*;

    fn settings(values: &[(&'static str, &str)]) -> Settings {
        let mut settings = Settings::new(&KUBERNETES);
        values.iter().for_each(|(key, value)| settings.set(key, Given::Text((*value).to_owned())));
        settings
    }

    #[test]
    fn a_pod_finds_its_cluster_by_itself() {
        let account = tempfile::tempdir().unwrap();
        std::fs::write(account.path().join("namespace"), "shop\n").unwrap();
        let environment = |name: &str| match name {
            "KUBERNETES_SERVICE_HOST" => Some("fd00::1".to_owned()),
            "KUBERNETES_SERVICE_PORT" => Some("443".to_owned()),
            _ => None,
        };
        let place = Place::of(&settings(&[("service", "web")]), environment, account.path()).unwrap();
        assert_eq!(place.server, "https://[fd00::1]:443");
        assert_eq!(place.token_file, Some(account.path().join("token")));
        assert_eq!(place.ca_file, Some(account.path().join("ca.crt")));
        let path =
            "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices?labelSelector=kubernetes.io%2Fservice-name%3Dweb";
        assert_eq!(place.path, path);
        let why = Place::of(&settings(&[("service", "web")]), |_| None, account.path()).unwrap_err();
        assert!(why.contains("`api` names the server"), "{why}");
    }

    #[test]
    fn a_server_that_is_named_gets_no_token_of_the_pod() {
        let given = settings(&[("service", "web"), ("namespace", "shop"), ("api", "http://127.0.0.1:8001/")]);
        let place = Place::of(&given, |_| None, Path::new(ACCOUNT)).unwrap();
        assert_eq!((place.server.as_str(), place.token_file, place.ca_file), ("http://127.0.0.1:8001", None, None));
    }

    #[test]
    fn only_in_a_pod_it_reads_the_service_account() {
        let files = |given: &[(&'static str, &str)]| reads(&settings(given)).len();
        assert_eq!(reads(&settings(&[("service", "web")]))[0], Path::new(ACCOUNT).join("token"));
        assert_eq!(files(&[("service", "web")]), 3);
        assert_eq!(files(&[("service", "web"), ("namespace", "shop"), ("token_file", "/a")]), 1);
        assert_eq!(files(&[("service", "web"), ("namespace", "shop"), ("api", "http://127.0.0.1:1")]), 0);
    }

    #[test]
    fn an_endless_list_is_refused_before_it_fills_the_memory() {
        let text = format!("{{\"items\": [{}0]}}", "0,".repeat(1 << 20));
        let why = serde_json::from_str::<List>(&text).err().unwrap().to_string();
        assert!(why.contains("more than 50000 entries"), "{why}");
    }

    #[test]
    fn bad_settings_are_refused() {
        for (values, key) in [
            (&[("service", "We b")][..], "service"),
            (&[("service", "web"), ("port", "70000")][..], "port"),
            (&[("service", "web"), ("port", "")][..], "port"),
            (&[("service", "web"), ("api", "10.0.0.1:6443")][..], "api"),
            (&[("service", "web"), ("api", "https://10.0.0.1:6443")][..], "namespace"),
            (&[("service", "web"), ("namespace", "..")][..], "namespace"),
            (&[("service", "web"), ("namespace", "a/b")][..], "namespace"),
        ] {
            assert_eq!(check(&settings(values)).unwrap_err().key, key, "{values:?}");
        }
        assert_eq!(check(&settings(&[("service", "web"), ("port", "8080")])), Ok(()));
    }
}
