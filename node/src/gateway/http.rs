//! Between HTTP as clients speak it and the bytes that a service is called with (ABI `wayfare:request/1`): an HTTP/1.1
//! message, whole, with a `content-length` and without the headers that concern one connection only (RFC 9110, 7.6.1).

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Response, StatusCode, Uri,
    header::{CONNECTION, CONTENT_LENGTH, HeaderName, HeaderValue, TE, TRAILER, TRANSFER_ENCODING, UPGRADE},
};
use wayfare_protocol::gateway::IdempotencyKey;

/// Headers of a service's response at most.
const HEADERS_MAX: usize = 128;

/// Headers that concern one connection only; those that `Connection` names are added to them.
fn is_hop_by_hop(name: &HeaderName, headers: &HeaderMap) -> bool {
    const OLD: [&str; 3] = ["keep-alive", "proxy-connection", "proxy-authorization"];
    if [CONNECTION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE].contains(name) || OLD.contains(&name.as_str()) {
        return true;
    }
    let named = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    named.flat_map(|value| value.split(',')).any(|named| named.trim().eq_ignore_ascii_case(name.as_str()))
}

/// What is wrong with a request's `Idempotency-Key`.
const BAD_KEY: &str = "the Idempotency-Key is not one string of 1 to 128 visible ASCII characters, such as \"8e03978e-40d5\" \
                       (with or without the quotes)";

/// The request's `Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a string as structured fields have it
/// (RFC 8941, 3.3.3), without parameters; or its bare characters, as many clients send it, if none of them is of a
/// structured field's punctuation. Quoted or bare, it is the same key.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<IdempotencyKey>, &'static str> {
    let mut values = headers.get_all("idempotency-key").iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(BAD_KEY);
    }
    let text = value.to_str().map_err(|_| BAD_KEY)?.trim_matches([' ', '\t']);
    let bare = match text.strip_prefix('"') {
        Some(quoted) => unquoted(quoted).ok_or(BAD_KEY)?,
        None if text.contains(['"', '\\', ',', ';']) => return Err(BAD_KEY),
        None => text.to_owned(),
    };
    IdempotencyKey::try_from(bare).map(Some).map_err(|_| BAD_KEY)
}

/// What is between the quotes; `quoted` begins behind the first of them, and ends with the second.
fn unquoted(quoted: &str) -> Option<String> {
    let mut bare = String::with_capacity(quoted.len());
    let mut rest = quoted.chars();
    loop {
        match rest.next()? {
            '"' => return rest.next().is_none().then_some(bare),
            '\\' => bare.push(rest.next().filter(|next| ['"', '\\'].contains(next))?),
            other => bare.push(other),
        }
    }
}

/// The bytes of a request. Its `Idempotency-Key` stays: the service may have a use for it, such as to pass it on.
pub(super) fn request_bytes(method: &Method, uri: &Uri, headers: &HeaderMap, body: &[u8]) -> Vec<u8> {
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let mut bytes = Vec::with_capacity(256 + body.len());
    bytes.extend_from_slice(format!("{method} {target} HTTP/1.1\r\n").as_bytes());
    for (name, value) in headers {
        if name != CONTENT_LENGTH && !is_hop_by_hop(name, headers) {
            bytes.extend_from_slice(name.as_str().as_bytes());
            bytes.extend_from_slice(b": ");
            bytes.extend_from_slice(value.as_bytes());
            bytes.extend_from_slice(b"\r\n");
        }
    }
    bytes.extend_from_slice(format!("content-length: {}\r\n\r\n", body.len()).as_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// A service's response as HTTP; 502 if its bytes are none.
pub(super) fn response(bytes: Vec<u8>) -> Response<Full<Bytes>> {
    parse(bytes).unwrap_or_else(|| plain(StatusCode::BAD_GATEWAY, "the service's response is no HTTP/1.1 message"))
}

fn parse(bytes: Vec<u8>) -> Option<Response<Full<Bytes>>> {
    let bytes = Bytes::from(bytes);
    let mut storage = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut head = httparse::Response::new(&mut storage);
    let httparse::Status::Complete(body_at) = head.parse(&bytes).ok()? else { return None };
    let mut headers = HeaderMap::new();
    for header in head.headers.iter() {
        headers
            .append(HeaderName::from_bytes(header.name.as_bytes()).ok()?, HeaderValue::from_bytes(header.value).ok()?);
    }
    let body = bytes.slice(body_at..);
    let kept: HeaderMap = headers
        .iter()
        // The body's real length counts.
        .filter(|(name, _)| *name != CONTENT_LENGTH && !is_hop_by_hop(name, &headers))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = StatusCode::from_u16(head.code?).ok().filter(|status| status.as_u16() >= 200)?;
    *response.headers_mut() = kept;
    Some(response)
}

/// A response of the gateway itself.
pub(super) fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    let plain_text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(hyper::header::CONTENT_TYPE, plain_text);
    response
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_request_keeps_what_concerns_the_service_only() {
        let mut headers = HeaderMap::new();
        headers.insert("host", HeaderValue::from_static("example"));
        headers.insert(CONNECTION, HeaderValue::from_static("keep-alive, x-private"));
        headers.insert("x-private", HeaderValue::from_static("1"));
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        headers.insert(CONTENT_LENGTH, HeaderValue::from_static("99"));
        let bytes = request_bytes(&Method::PUT, &Uri::from_static("/k/a?b=c"), &headers, b"xyz");
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text, "PUT /k/a?b=c HTTP/1.1\r\nhost: example\r\ncontent-length: 3\r\n\r\nxyz");
    }

    fn key_of(values: &[&str]) -> Result<Option<String>, &'static str> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("Idempotency-Key", HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        idempotency_key(&headers).map(|key| key.map(String::from))
    }

    #[test]
    fn a_key_is_taken_quoted_or_bare() {
        assert_eq!(key_of(&[]), Ok(None));
        let long = "x".repeat(128);
        for (value, key) in [
            ("8e03978e-40d5-43e8-bc93-6894a57f9324", "8e03978e-40d5-43e8-bc93-6894a57f9324"),
            ("\"8e03978e-40d5\"", "8e03978e-40d5"),
            (" \"a,b;c\" ", "a,b;c"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            (long.as_str(), long.as_str()),
            ("?1", "?1"),
        ] {
            assert_eq!(key_of(&[value]), Ok(Some(key.to_owned())), "{value}");
        }
    }

    #[test]
    fn what_is_no_key_is_refused() {
        let long = "x".repeat(129);
        for value in [
            "",
            "\"\"",
            "\"",
            "\"a",
            "a\"",
            "\"a\"b",
            "\"a\\\"",
            r#""a\b""#,
            "a b",
            "\"a b\"",
            "a, b",
            "a;b=1",
            "\"a\";b=1",
            "\"a\", \"b\"",
            "é",
            &long,
        ] {
            assert!(key_of(&[value]).is_err(), "{value}");
        }
        assert!(key_of(&["a", "a"]).is_err(), "two are none");
    }

    #[tokio::test]
    async fn a_response_comes_back_whole() {
        let bytes =
            b"HTTP/1.1 201 Created\r\ncontent-type: text/x\r\ncontent-length: 7\r\nconnection: close\r\n\r\nbody";
        let response = response(bytes.to_vec());
        assert_eq!(response.status(), 201);
        assert_eq!(response.headers().get("content-type").unwrap(), "text/x");
        assert!(response.headers().get(CONNECTION).is_none());
        assert!(response.headers().get(CONTENT_LENGTH).is_none());
        assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "body");
    }

    #[test]
    fn what_is_no_response_is_a_bad_gateway() {
        for bytes in [&b""[..], b"nonsense", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 200 OK\r\nbad header\r\n\r\n"]
        {
            assert_eq!(response(bytes.to_vec()).status(), StatusCode::BAD_GATEWAY, "{bytes:?}");
        }
    }

    const RESPONSE: &[u8] =
        b"HTTP/1.1 200 OK\r\nConnection: close, x-hop\r\nx-hop: 1\r\nx-kept: a\r\ncontent-length: 2\r\n\r\nok";

    /// Whatever a service answers, clients get a response that is whole: no header that concerns one connection, and a final
    /// status.
    fn check_response(bytes: &[u8]) {
        let response = response(bytes.to_vec());
        assert!(response.status().as_u16() >= 200);
        for (name, _) in response.headers() {
            assert!(*name != CONTENT_LENGTH && *name != TRANSFER_ENCODING && *name != CONNECTION, "{name}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(2000) })]

        #[test]
        fn whatever_a_service_answers_is_a_response(
            random in prop::collection::vec(any::<u8>(), 0..120),
            changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
            cut in any::<prop::sample::Index>(),
        ) {
            check_response(&random);
            let mut changed = RESPONSE.to_vec();
            changes.iter().for_each(|(at, byte)| changed[at.index(RESPONSE.len())] = *byte);
            check_response(&changed);
            changed.truncate(cut.index(RESPONSE.len()));
            check_response(&[&changed[..], &random].concat());
        }

        #[test]
        fn whatever_a_client_sends_as_its_key_is_one_or_refused(value in prop::collection::vec(any::<u8>(), 0..140)) {
            let mut headers = HeaderMap::new();
            if let Ok(value) = HeaderValue::from_bytes(&value) {
                headers.insert("idempotency-key", value);
                if let Ok(key) = idempotency_key(&headers) {
                    let key = key.expect("there is a header");
                    prop_assert!(key.as_str().bytes().all(|byte| byte.is_ascii_graphic()));
                }
                // What a service is called with reads back as the same request.
                let bytes = request_bytes(&Method::POST, &Uri::from_static("/a?b"), &headers, &[1, 2]);
                let mut storage = [httparse::EMPTY_HEADER; 4];
                let mut request = httparse::Request::new(&mut storage);
                let parsed = request.parse(&bytes);
                prop_assert_eq!(parsed, Ok(httparse::Status::Complete(bytes.len() - 2)));
                prop_assert_eq!((request.method, request.path, request.headers.len()), (Some("POST"), Some("/a?b"), 2));
            }
        }
    }
}
