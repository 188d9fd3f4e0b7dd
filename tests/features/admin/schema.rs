//! The OpenAPI document against the table of calls and against what is really answered.

use crate::admin::support::Balancer;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use tcplb::admin::routes::ROUTES;

/// Is it what the schema says? Knows what our schemas use, and panics at anything else.
fn check(value: &Value, schema: &Value, document: &Value, at: &str) -> Result<(), String> {
    for (key, rule) in schema.as_object().expect("a schema") {
        let good = match key.as_str() {
            "$ref" => {
                let target =
                    document.pointer(rule.as_str().expect("a sound schema").trim_start_matches('#')).expect("a target");
                check(value, target, document, at)?;
                true
            }
            "type" => {
                let is = |kind: &Value| match kind.as_str().expect("a sound schema") {
                    "object" => value.is_object(),
                    "array" => value.is_array(),
                    "string" => value.is_string(),
                    "boolean" => value.is_boolean(),
                    "integer" => value.is_u64() || value.is_i64(),
                    "number" => value.is_number(),
                    "null" => value.is_null(),
                    other => panic!("{other}"),
                };
                rule.as_array().map_or_else(|| is(rule), |kinds| kinds.iter().any(is))
            }
            "required" => rule
                .as_array()
                .expect("a sound schema")
                .iter()
                .all(|name| value.get(name.as_str().expect("a sound schema")).is_some()),
            "properties" => {
                for (name, schema) in rule.as_object().expect("a sound schema") {
                    if let Some(inside) = value.get(name) {
                        check(inside, schema, document, &format!("{at}/{name}"))?;
                    }
                }
                true
            }
            "additionalProperties" if rule.is_object() => {
                let mut values = value.as_object().into_iter().flatten();
                values.try_for_each(|(name, inside)| check(inside, rule, document, &format!("{at}/{name}")))?;
                true
            }
            "additionalProperties" => {
                value.as_object().is_none_or(|all| all.keys().all(|name| schema["properties"].get(name).is_some()))
            }
            "items" => {
                let items = value.as_array().into_iter().flatten().enumerate();
                items
                    .into_iter()
                    .try_for_each(|(index, item)| check(item, rule, document, &format!("{at}/{index}")))?;
                true
            }
            "maxItems" => value.as_array().is_none_or(|all| all.len() as u64 <= rule.as_u64().expect("a sound schema")),
            "enum" => rule.as_array().expect("a sound schema").contains(value),
            "minimum" => value.as_f64().is_none_or(|number| number >= rule.as_f64().expect("a sound schema")),
            "maximum" => value.as_f64().is_none_or(|number| number <= rule.as_f64().expect("a sound schema")),
            "anyOf" | "oneOf" => {
                rule.as_array().expect("a sound schema").iter().any(|one| check(value, one, document, at).is_ok())
            }
            "description" | "default" | "examples" | "minLength" | "maxLength" | "pattern" | "format"
            | "minProperties" => true,
            other => panic!("the test does not know {other}"),
        };
        if !good {
            return Err(format!("{at}: {value} breaks {key}: {rule}"));
        }
    }
    Ok(())
}

#[test]
fn the_document_has_the_calls_there_are_and_no_others() {
    let document = Balancer::idle().get("/v1/openapi.json").json(200);
    assert!(document["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    let mut described = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            described.insert((method.to_uppercase(), path.clone()));
            let named = path.matches('{').count();
            let parameters = operation["parameters"].as_array().unwrap();
            assert_eq!(parameters.iter().filter(|parameter| parameter["in"] == "path").count(), named, "{path}");
            assert!(operation["responses"].get("default").is_some() && operation["summary"].is_string());
        }
    }
    let there: BTreeSet<_> = ROUTES.iter().map(|route| (route.method.to_owned(), route.path.to_owned())).collect();
    assert_eq!(described, there);
    assert_eq!(there.len(), ROUTES.len(), "a call stands twice in the table");
}

#[test]
fn answers_match_the_openapi_document() {
    let balancer = Balancer::idle();
    let document = balancer.get("/v1/openapi.json").json(200);
    let mut checked = BTreeSet::new();
    let backends = "/v1/pools/{pool}/backends";
    let backend = "/v1/pools/{pool}/backends/{backend}";
    let probe = "/v1/pools/{pool}/backends/{backend}/probe";
    for (method, path, query, names, body, status) in [
        ("GET", "/v1/status", "", &[][..], "", "200"),
        ("GET", backends, "", &["default"], "", "200"),
        ("GET", backends, "", &["none"], "", "404"),
        ("POST", backends, "", &["default"], r#"{"address":"127.0.0.1:2","name":"b"}"#, "201"),
        ("POST", backends, "", &["default"], r#"{"address":"127.0.0.1:2","name":"b"}"#, "409"),
        ("POST", backends, "", &["default"], "{}", "400"),
        ("PATCH", backend, "", &["default", "b"], r#"{"state":"draining","weight":3}"#, "200"),
        ("PATCH", backend, "", &["default", "b"], "{}", "400"),
        ("PATCH", backend, "", &["default", "c"], r#"{"weight":3}"#, "404"),
        ("DELETE", backend, "?force=x", &["default", "b"], "", "400"),
        ("DELETE", backend, "?force=true", &["default", "b"], "", "200"),
        ("DELETE", backend, "", &["default", "b"], "", "404"),
        ("POST", probe, "", &["default", "web1"], "", "200"),
        ("POST", probe, "", &["default", "none"], "", "404"),
        ("POST", probe, "?x=1", &["default", "web1"], "", "400"),
        ("GET", "/v1/connections", "", &[], "", "200"),
        ("GET", "/v1/connections", "?sort=name", &[], "", "400"),
        ("DELETE", "/v1/connections", "?pool=default", &[], "", "200"),
        ("DELETE", "/v1/connections", "", &[], "", "400"),
        ("GET", "/v1/connections/{id}", "", &[], "", "404"),
        ("DELETE", "/v1/connections/{id}", "", &[], "", "404"),
        ("POST", "/v1/reload", "", &[], "", "400"),
        ("POST", "/v1/upgrade", "", &[], "", "500"),
        ("POST", "/register", "", &[], "{}", "400"),
        ("POST", "/register", "", &[], r#"{"x":1}"#, "403"),
        ("GET", "/v1/explain", "?client=192.0.2.7", &[], "", "200"),
        ("GET", "/v1/explain", "?client=192.0.2.7&protocol=postgres&sni=db.example.com", &[], "", "200"),
        ("GET", "/v1/explain", "?client=192.0.2.7&protocol=smtp", &[], "", "400"),
        ("GET", "/v1/explain", "?client=192.0.2.7&listener=none", &[], "", "404"),
        ("GET", "/v1/explain", "", &[], "", "400"),
        ("GET", "/v1/events", "", &[], "", "200"),
        ("GET", "/v1/events", "?since=x", &[], "", "400"),
        ("GET", "/v1/config/diff", "", &[], "", "200"),
        ("GET", "/v1/openapi.json", "", &[], "", "200"),
        ("GET", "/v1/config", "", &[], "", "200"),
        ("GET", "/metrics", "", &[], "", "200"),
        ("GET", "/metrics", "?pool=none", &[], "", "404"),
        ("GET", "/metrics", "?collect=all", &[], "", "400"),
        ("GET", "/healthz", "", &[], "", "200"),
        ("GET", "/readyz", "", &[], "", "200"),
        ("GET", "/readyz", "?pool=default", &[], "", "200"),
        ("GET", "/readyz", "?pool=none", &[], "", "404"),
        ("GET", "/readyz", "?pol=default", &[], "", "400"),
        ("GET", "/", "", &[], "", "200"),
    ] {
        let operation = &document["paths"][path][method.to_lowercase()];
        let mut real = path.to_owned();
        for (name, value) in ["{pool}", "{backend}"].iter().zip(names) {
            real = real.replace(name, value);
        }
        let answer = balancer.call(method, &format!("{real}{query}"), body);
        assert_eq!(answer.status.to_string(), status, "{method} {path} {body}: {}", answer.body);
        let content =
            operation["responses"][status]["content"].as_object().unwrap_or_else(|| panic!("{path} {status}"));
        let (media, described) = content.iter().next().unwrap();
        assert_eq!(answer.header("Content-Type"), Some(media.as_str()), "{path}");
        let value = if media == "application/json" { answer.json(answer.status) } else { json!(answer.body) };
        check(&value, &described["schema"], &document, path).unwrap();
        checked.insert((method, path));
    }
    assert_eq!(checked.len(), ROUTES.len(), "every call is tried");
}
