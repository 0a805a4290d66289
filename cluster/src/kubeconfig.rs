//! Kubeconfig files: where the API server is, whom to trust, who one is. All in one file, so that it can be copied.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde_json::json;

use crate::pki::Pair;

/// What a kubeconfig is called inside.
const NAME: &str = "postern-cluster";

/// The text of a kubeconfig (JSON, which is YAML too).
#[must_use]
pub fn render(server: &str, authority: &str, user: &Pair) -> String {
    let base64 = |text: &str| BASE64_STANDARD.encode(text);
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{
            "name": NAME,
            "cluster": { "server": server, "certificate-authority-data": base64(authority) },
        }],
        "users": [{
            "name": NAME,
            "user": {
                "client-certificate-data": base64(&user.certificate),
                "client-key-data": base64(&user.key),
            },
        }],
        "contexts": [{ "name": NAME, "context": { "cluster": NAME, "user": NAME } }],
        "current-context": NAME,
    });
    format!("{config:#}\n")
}
