//! `approximate = true`: weights that follow the loads of backends.

use super::lab::{AT, Kernel, Lab, config};
use serde_json::Value;
use testkit::eventually;

/// The answer about a client without a port.
fn explained(kernel: &Kernel<'_>) -> Value {
    kernel.get("/v1/explain?client=10.9.1.2")
}

fn candidate(explained: &Value, backend: &str) -> Value {
    let all = explained["candidates"].as_array().expect("candidates");
    all.iter().find(|it| it["backend"] == backend).expect("the backend").clone()
}

#[test]
fn approximate_gives_a_backend_that_holds_many_connections_clearly_fewer_of_the_new_ones() {
    let Some(lab) = Lab::new() else { return };
    let _servers = [2, 3, 4].map(|last| lab.server(last));
    let text = |pool: &str| config(&format!("'{AT}'"), pool, &[2, 3, 4]);
    let approximate = text("algorithm = 'least-connections'\napproximate = true");
    let kernel = lab.start(&approximate);
    kernel.wait_for("up", &["s2", "s3", "s4"]);
    let set = |name: &str, weight: u16| {
        let body = format!("{{\"weight\":{weight}}}");
        let answer = kernel.call("PATCH", &format!("/v1/pools/pool/backends/{name}"), &body);
        assert_eq!(answer.status, 200, "{answer:?}");
    };
    let weight = |name: &str| kernel.backend(name)["effective_weight"].as_f64().expect("a weight");
    // In stages: counts are further apart where the kernel tracks many connections of others.
    let is_avoided = || {
        for most in [0.8, 0.6, 0.45, 0.3] {
            eventually("the rules have a lower weight of the busy one", || weight("s2") < most);
        }
    };
    ["s3", "s4"].iter().for_each(|name| set(name, 0));
    let held: Vec<_> = (0..60).map(|_| lab.connect(AT)).collect();
    assert!(held.iter().all(|client| client.hear_line() == "s2"));
    assert_eq!((weight("s2"), weight("s3")), (1.0, 0.0));
    ["s3", "s4"].iter().for_each(|name| set(name, 1));
    is_avoided();
    let names = lab.names(AT, 300);
    assert!(names["s2"] < 60 && names["s3"] > 90 && names["s4"] > 90, "{names:?}");
    let answer = explained(&kernel);
    let of_busy = candidate(&answer, "s2");
    assert_eq!((&answer["approximate"], &answer["pick"]), (&true.into(), &Value::Null), "{answer}");
    assert!(of_busy["share"].as_f64().unwrap() < 0.1, "{answer}");
    assert!(of_busy["why"].as_str().unwrap().starts_with("up, its weight for the kernel is 0."), "{answer}");
    held.iter().for_each(|client| client.assert_echoes("it stays"));
    // Without it there is no algorithm that follows load.
    lab.write(&text("algorithm = 'least-connections'"));
    let refused = kernel.call("POST", "/v1/reload", "");
    assert!(refused.status == 400 && refused.body.contains("needs approximate = true"), "{refused:?}");
    kernel.reload(&text("algorithm = 'random'"));
    let names = lab.names(AT, 300);
    assert!(names["s2"] > 70, "{names:?}");
    assert_eq!((weight("s2"), &explained(&kernel)["approximate"]), (1.0, &Value::Null));
    // From the configured weights on.
    kernel.reload(&approximate);
    is_avoided();
    drop(held);
    for least in [0.35, 0.45, 0.55] {
        eventually("its share comes back", || weight("s2") > least);
    }
}
