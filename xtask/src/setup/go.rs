//! Go, which builds Kubernetes. Not installed from here: which Go a developer has, is the developer's choice.

use anyhow::{Result, bail};

use super::{Step, packages};

/// A Go toolchain.
#[derive(Debug)]
pub(super) struct Go;

impl Step for Go {
    fn short(&self) -> &'static str {
        "go"
    }

    fn name(&self) -> String {
        "go, which builds Kubernetes".to_owned()
    }

    fn done(&self) -> Result<bool> {
        Ok(packages::in_path("go"))
    }

    fn install(&self) -> Result<()> {
        bail!("there is no go in PATH")
    }

    fn by_hand(&self) -> Vec<String> {
        vec![
            "# install Go 1.24 or newer (https://go.dev/doc/install), and see that `go` is in PATH"
                .to_owned(),
        ]
    }
}
