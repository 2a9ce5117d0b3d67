//! The examples of `docs/http.md`, sent to a real node.
#![cfg(feature = "production")]

mod production_support;

use production_support::Site;
use serde_json::Value;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_of_the_book_are_true() {
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/http.md")).unwrap();
    let site = Site::new();
    let node = site.start("dev", &["--dev"]).await;
    let lines: Vec<&str> = page.lines().filter(|line| line.starts_with("> ") || line.starts_with("< ")).collect();
    assert!(lines.len() > 40, "the examples are found");
    for pair in lines.chunks(2) {
        let request = pair[0].strip_prefix("> ").expect("a request");
        let expected = pair[1].strip_prefix("< ").expect("a response");
        let mut parts = request.splitn(3, ' ');
        let (method, path) = (parts.next().unwrap(), parts.next().unwrap());
        let url = format!("{}{path}", node.url);
        let (status, body) = match method {
            "GET" => site.get(&url).await,
            _ => site.post(&url, serde_json::from_str(parts.next().unwrap()).unwrap(), None).await,
        };
        let (expected_status, expected_body) = expected.split_once(' ').unwrap();
        assert_eq!(status.to_string(), expected_status, "{request}: {body}");
        match serde_json::from_str::<Value>(expected_body) {
            Ok(expected) => same_shape(request, &expected, &body),
            Err(_) => assert_eq!(body.as_str().unwrap().trim(), expected_body, "{request}"),
        }
    }
}

/// The same fields of the same types; texts and truth values are equal, but for `*`.
fn same_shape(request: &str, expected: &Value, actual: &Value) {
    match (expected, actual) {
        (Value::String(text), Value::String(_)) if text == "*" => {}
        (Value::Number(_), Value::Number(_)) => {}
        (Value::Array(expected), Value::Array(actual)) => {
            assert_eq!(expected.len(), actual.len(), "{request}");
            expected.iter().zip(actual).for_each(|(expected, actual)| same_shape(request, expected, actual));
        }
        (Value::Object(expected), Value::Object(actual)) => {
            let names = |object: &serde_json::Map<String, Value>| object.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(expected), names(actual), "{request}");
            for (name, value) in expected {
                same_shape(request, value, &actual[name]);
            }
        }
        _ => assert_eq!(expected, actual, "{request}"),
    }
}
