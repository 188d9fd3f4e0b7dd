//! A headless Chromium, driven by its DevTools protocol over a pipe: messages in JSON, each ended by a zero byte. One
//! browser serves all tests that run at the same time; each page has a context of its own.

use crate::{PATIENCE, need};
use parking_lot::{Condvar, Mutex};
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::Instant;
use tempfile::TempDir;

/// A shell gives the browser its standard input and output as the descriptors 3 and 4 that it expects.
const START: &str = "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1";

const FLAGS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-extensions",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--hide-scrollbars",
    "--mute-audio",
    "--remote-debugging-pipe",
];

/// A running Chromium, killed when its last page is dropped.
struct Browser {
    child: Child,
    input: Mutex<ChildStdin>,
    next: AtomicU64,
    heard: Arc<Heard>,
    _profile: TempDir,
}

/// The messages of the browser that no caller has taken.
#[derive(Default)]
struct Heard {
    messages: Mutex<Vec<Value>>,
    grown: Condvar,
}

/// A tab.
pub struct Page {
    browser: Arc<Browser>,
    context: String,
    session: String,
    /// The events of this tab, in order.
    events: Mutex<Vec<Value>>,
}

/// How a page looks at the world.
#[derive(Clone, Copy)]
pub struct Screen {
    /// In CSS pixels.
    pub width: u32,
    /// In CSS pixels.
    pub height: u32,
    /// Whether the user prefers dark colours.
    pub dark: bool,
}

impl Browser {
    /// The browser of the tests that run now, or a new one. `None` after a message where Chromium is not installed.
    fn shared() -> Option<Arc<Browser>> {
        static SHARED: Mutex<Weak<Browser>> = Mutex::new(Weak::new());
        let chromium = need("chromium")?;
        let mut shared = SHARED.lock();
        let browser = shared.upgrade().unwrap_or_else(|| Arc::new(Browser::start(&chromium)));
        *shared = Arc::downgrade(&browser);
        Some(browser)
    }

    fn start(chromium: &Path) -> Browser {
        let profile = tempfile::tempdir().expect("a temporary directory");
        let mut command = Command::new("sh");
        command.args(["-c", START]).arg(chromium).args(FLAGS);
        command.arg(format!("--user-data-dir={}", profile.path().display())).arg("about:blank");
        // Its configuration and caches belong to the profile too.
        command.env("HOME", profile.path()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start Chromium");
        let input = child.stdin.take().expect("it is piped");
        let output = child.stdout.take().expect("it is piped");
        let heard = Arc::<Heard>::default();
        let keeper = heard.clone();
        thread::spawn(move || listen(output, &keeper));
        Browser { child, input: Mutex::new(input), next: AtomicU64::new(1), heard, _profile: profile }
    }

    /// A call of the protocol: the result.
    #[track_caller]
    fn call(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        let mut answer = self.ask(session, method, params);
        assert!(answer.get("error").is_none(), "{method}: {answer:#}");
        answer["result"].take()
    }

    /// A call of the protocol: the whole answer, which may be an error.
    #[track_caller]
    fn ask(&self, session: Option<&str>, method: &str, params: Value) -> Value {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut message = json!({ "id": id, "method": method, "params": params });
        if let Some(session) = session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.input.lock().write_all(&bytes).expect("Chromium reads its pipe");
        self.heard.wait(method, |message| message["id"] == id)
    }
}

impl Heard {
    /// Takes the first message that is wanted, once it has come.
    #[track_caller]
    fn wait(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + PATIENCE;
        let mut messages = self.messages.lock();
        loop {
            if let Some(found) = messages.iter().position(&wanted) {
                return messages.remove(found);
            }
            let over = self.grown.wait_until(&mut messages, end).timed_out();
            assert!(!over, "Chromium never answered {what}");
        }
    }
}

fn listen(output: ChildStdout, heard: &Heard) {
    for message in BufReader::new(output).split(0).map_while(Result::ok) {
        heard.messages.lock().extend(serde_json::from_slice::<Value>(&message));
        heard.grown.notify_all();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Page {
    /// Opens an address. `None` after a message where Chromium is not installed.
    #[track_caller]
    pub fn open(url: &str, screen: Screen) -> Option<Page> {
        let browser = Browser::shared()?;
        let text = |value: &Value, name: &str| value[name].as_str().expect("a text").to_owned();
        let context = text(&browser.call(None, "Target.createBrowserContext", json!({})), "browserContextId");
        let target = json!({ "url": "about:blank", "browserContextId": context });
        let target = text(&browser.call(None, "Target.createTarget", target), "targetId");
        let attach = json!({ "targetId": target, "flatten": true });
        let session = text(&browser.call(None, "Target.attachToTarget", attach), "sessionId");
        let page = Page { browser, context, session, events: Mutex::default() };
        for domain in ["Page", "Runtime", "Log", "Network", "Performance"] {
            page.call(&format!("{domain}.enable"), json!({}));
        }
        let Screen { width, height, dark } = screen;
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        page.call("Emulation.setDeviceMetricsOverride", size);
        let scheme = if dark { "dark" } else { "light" };
        // Without motion a picture shows what is there, not what changes.
        let features = [("prefers-color-scheme", scheme), ("prefers-reduced-motion", "reduce")];
        let features = features.map(|(name, value)| json!({ "name": name, "value": value }));
        page.call("Emulation.setEmulatedMedia", json!({ "features": features }));
        page.call("Page.navigate", json!({ "url": url }));
        page.wait("the page is loaded", "location.href !== 'about:blank' && document.readyState === 'complete'");
        Some(page)
    }

    /// A call of the protocol about this tab.
    #[track_caller]
    pub fn call(&self, method: &str, params: Value) -> Value {
        self.browser.call(Some(&self.session), method, params)
    }

    /// The value of an expression. A promise is awaited.
    #[track_caller]
    pub fn value(&self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "awaitPromise": true, "returnByValue": true });
        let mut answer = self.call("Runtime.evaluate", params);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {:#}", answer["exceptionDetails"]);
        answer["result"]["value"].take()
    }

    /// Whether an expression is true. It is not on a page that just goes away for another one.
    #[track_caller]
    fn holds(&self, expression: &str) -> bool {
        let params = json!({ "expression": expression, "returnByValue": true });
        let answer = self.browser.ask(Some(&self.session), "Runtime.evaluate", params);
        let goes_away = answer["error"]["message"].as_str().is_some_and(|why| why.contains("navigated"));
        assert!(goes_away || answer.get("error").is_none(), "{expression}: {answer:#}");
        assert!(answer["result"].get("exceptionDetails").is_none(), "{expression}: {answer:#}");
        answer["result"]["result"]["value"] == true
    }

    /// Waits until an expression is true.
    #[track_caller]
    pub fn wait(&self, what: &str, expression: &str) {
        let held = format!("Boolean({expression})");
        let end = Instant::now() + PATIENCE;
        while !self.holds(&held) {
            let seen = || self.value("document.body.innerText");
            assert!(Instant::now() < end, "never so: {what}; the page shows\n{}", seen().as_str().unwrap_or_default());
            thread::park_timeout(std::time::Duration::from_millis(20));
        }
    }

    /// The text of the element that a selector finds, or nothing.
    #[track_caller]
    pub fn text(&self, selector: &str) -> String {
        let text = self.value(&format!("document.querySelector({})?.textContent ?? ''", json!(selector)));
        text.as_str().expect("a text").to_owned()
    }

    /// Clicks on the first element that a selector finds.
    #[track_caller]
    pub fn click(&self, selector: &str) {
        self.wait(&format!("there is {selector}"), &format!("document.querySelector({})", json!(selector)));
        self.value(&format!("document.querySelector({}).click()", json!(selector)));
    }

    /// Presses a key: a letter, or a name like `Enter`.
    #[track_caller]
    pub fn press(&self, key: &str) {
        let (text, code) = match key {
            "Enter" => ("\r", 13),
            "Tab" => ("", 9),
            "Escape" => ("", 27),
            letter => (letter, 0),
        };
        let mut event = json!({ "type": "keyDown", "key": key, "windowsVirtualKeyCode": code });
        if !text.is_empty() {
            event["text"] = json!(text);
        }
        self.call("Input.dispatchKeyEvent", event);
        self.call("Input.dispatchKeyEvent", json!({ "type": "keyUp", "key": key, "windowsVirtualKeyCode": code }));
    }

    /// Types a text into the element that has the focus.
    #[track_caller]
    pub fn enter(&self, text: &str) {
        self.call("Input.insertText", json!({ "text": text }));
    }

    /// A figure of the browser, like `ScriptDuration`, in seconds for durations.
    #[track_caller]
    pub fn figure(&self, name: &str) -> f64 {
        let figures = self.call("Performance.getMetrics", json!({}));
        let mut figures = figures["metrics"].as_array().expect("an array").iter();
        figures.find(|figure| figure["name"] == name).and_then(|figure| figure["value"].as_f64()).expect("a number")
    }

    /// The addresses of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        let url = |event: &Value| event["params"]["request"]["url"].as_str().map(str::to_owned);
        self.events("Network.requestWillBeSent").iter().filter_map(url).collect()
    }

    /// What stands in the console, and the exceptions that the page has not caught.
    pub fn complaints(&self) -> Vec<String> {
        let names = ["Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"];
        names.iter().flat_map(|name| self.events(name)).map(|event| event["params"].to_string()).collect()
    }

    /// Writes what is to be seen as a PNG.
    pub fn shot(&self, file: &Path) {
        let picture = self.call("Page.captureScreenshot", json!({ "format": "png", "optimizeForSpeed": false }));
        let bytes = from_base64(picture["data"].as_str().expect("a text"));
        fs::write(file, bytes).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    }

    /// The events of this name so far.
    fn events(&self, name: &str) -> Vec<Value> {
        let mut events = self.events.lock();
        let mut messages = self.browser.heard.messages.lock();
        let (own, others) = std::mem::take(&mut *messages)
            .into_iter()
            .partition(|message| message["sessionId"] == self.session.as_str() && message.get("id").is_none());
        *messages = others;
        events.extend::<Vec<Value>>(own);
        events.iter().filter(|event| event["method"] == name).cloned().collect()
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if !thread::panicking() {
            self.browser.call(None, "Target.disposeBrowserContext", json!({ "browserContextId": self.context }));
        }
        // Nothing takes them any more, and each wait of another page would read them again.
        let session = self.session.as_str();
        let is_own = |message: &Value| message["sessionId"] == session || message["params"]["sessionId"] == session;
        self.browser.heard.messages.lock().retain(|message| !is_own(message));
    }
}

fn from_base64(text: &str) -> Vec<u8> {
    const LETTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |letter: u8| LETTERS.iter().position(|known| *known == letter).unwrap_or_default() as u32;
    let decode = |four: &[u8]| {
        let bits = four.iter().fold(0, |bits, letter| bits << 6 | digit(*letter));
        let padded = four.iter().filter(|letter| **letter == b'=').count();
        bits.to_be_bytes()[1..4 - padded].to_vec()
    };
    text.as_bytes().chunks(4).flat_map(decode).collect()
}
