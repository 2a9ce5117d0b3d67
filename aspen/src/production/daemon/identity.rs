//! Who this node is: what its data directory remembers beside the stores.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::message::ClusterId;
use crate::production::secret;
use crate::production::transport::Place;
use crate::types::NodeId;

/// Written before the stores are made, and marked once they are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    pub node_id: NodeId,
    pub cluster: u64,
    /// Who let it in, `KEY@HOST:PORT` each.
    #[serde(default)]
    pub peers: Vec<String>,
    /// The stores were made. Without them the node has forgotten its vote and must not come back under this id.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub served: bool,
    /// It forms a cluster of so many voters, which is not complete yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expect: Option<usize>,
}

/// The identity cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {problem}")]
pub struct IdentityError {
    pub path: PathBuf,
    pub problem: String,
}

impl Identity {
    pub fn read(dir: &Path) -> Result<Option<Identity>, IdentityError> {
        let path = path(dir);
        let fail = |problem: String| IdentityError { path: path.clone(), problem };
        if !path.try_exists().map_err(|error| fail(error.to_string()))? {
            return Ok(None);
        }
        let text = std::fs::read_to_string(&path).map_err(|error| fail(error.to_string()))?;
        serde_json::from_str(&text).map(Some).map_err(|error| fail(error.to_string()))
    }

    pub fn write(&self, dir: &Path) -> Result<(), IdentityError> {
        let text = serde_json::to_string(self).expect("an identity has string keys only");
        let path = path(dir);
        secret::write(&path, &text).map_err(|error| IdentityError { path, problem: error.to_string() })
    }

    /// Changes what is stored.
    pub fn update(dir: &Path, change: impl FnOnce(&mut Identity)) -> Result<(), IdentityError> {
        let Some(mut identity) = Identity::read(dir)? else {
            return Err(IdentityError { path: path(dir), problem: "it is gone".to_owned() });
        };
        change(&mut identity);
        identity.write(dir)
    }

    /// A cluster let it in, so that it forms none.
    pub fn has_joined(&self) -> bool {
        !self.peers.is_empty()
    }

    pub fn cluster(&self) -> ClusterId {
        ClusterId(self.cluster)
    }

    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.peers.iter().filter_map(|text| text.parse().ok())
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join("identity.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Identity::read(dir.path()).unwrap(), None);
        let peers = vec!["nonsense".to_owned()];
        let identity = Identity { node_id: 5, cluster: u64::MAX, peers, served: false, expect: Some(3) };
        identity.write(dir.path()).unwrap();
        assert_eq!(Identity::read(dir.path()).unwrap(), Some(identity.clone()));
        assert_eq!(identity.places().count(), 0);
        Identity::update(dir.path(), |identity| identity.served = true).unwrap();
        assert_eq!(Identity::read(dir.path()).unwrap(), Some(Identity { served: true, ..identity }));
        // As it was written before there were marks.
        std::fs::write(dir.path().join("identity.json"), r#"{"node_id":5,"cluster":7}"#).unwrap();
        assert!(!Identity::read(dir.path()).unwrap().unwrap().served);
        std::fs::write(dir.path().join("identity.json"), "{").unwrap();
        assert!(Identity::read(dir.path()).is_err());
    }
}
