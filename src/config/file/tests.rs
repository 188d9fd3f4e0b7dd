use super::*;
use crate::config::text;

const CONTRACT: &str = r#"
[global]
workers = 2
max_connections = 10000
shutdown_timeout = "30s"
admin = "127.0.0.1:9900"

[[listener]]
name = "web"
bind = [":8080"]
pool = "web"
accept_proxy = false            # or true: PROXY v1/v2 is then required
trusted_proxies = ["10.0.0.0/8"]  # who may send it
allow = ["0.0.0.0/0", "::/0"]
deny = ["192.0.2.0/24"]         # the most specific prefix wins
max_connections = 5000
max_connections_per_source = 100
connection_rate_per_source = "50/s"

[[pool]]
name = "web"
algorithm = "least-connections"
send_proxy = "v2"               # optional
connect_timeout = "5s"
connect_attempts = 3            # different backends tried before the client is reset
idle_timeout = "1h"
half_close_timeout = "5m"       # silence after one side has finished
max_lifetime = "0s"             # close after this long, spread by a tenth; 0 = never
on_down = "keep"                # or "reset": connections of a backend that goes down
on_remove = "keep"              # or "reset", or "drain 30s": of one taken out
slow_start = "10s"
warm_connections = 0            # spare connections kept ready per backend
no_backend = "reset"            # or "wait 3s"

  [pool.health]
  kind = "http"                 # tcp | http | agent | off
  path = "/healthz"
  host = "web.internal"
  expect_status = ["200-299"]
  port = 8081                   # optional: probe another port
  interval = "2s"
  timeout = "1s"
  rise = 2
  fall = 3

  [[pool.backend]]
  name = "web1"
  address = "127.0.0.1:8081"
  weight = 5
  max_connections = 200
  backup = false
"#;

#[test]
fn every_key_reaches_the_model() {
    let parsed = parse(CONTRACT, "a.toml").unwrap();
    assert_eq!(parse(&text::print(&parsed.model), "b.toml").unwrap().model, parsed.model);
}
