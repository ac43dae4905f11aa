//! `otlp_config`: what becomes of the attributes of OpenTelemetry.

use serde::{Deserialize, Serialize};

/// What becomes of which attributes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OtlpConfig {
    /// Attributes of resources.
    pub resource_attributes: ResourceAttributes,
    /// Attributes of scopes; `index_label` is not for them.
    pub scope_attributes: Vec<AttributeRule>,
    /// Attributes of records.
    pub log_attributes: Vec<AttributeRule>,
    /// Whether the text of a record's severity becomes the label `severity_text`.
    pub severity_text_as_label: bool,
}

/// What becomes of the attributes of resources.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ResourceAttributes {
    /// Whether the attributes that become labels by default do not.
    pub ignore_defaults: bool,
    /// Rules, of which the first that names an attribute decides, before the default.
    pub attributes_config: Vec<AttributeRule>,
}

/// What becomes of some attributes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttributeRule {
    /// What becomes of them.
    pub action: OtlpAction,
    /// Their names.
    #[serde(default)]
    pub attributes: Vec<String>,
    /// A regular expression for whole names, beside or instead of `attributes`.
    #[serde(default)]
    pub regex: String,
}

/// What becomes of an attribute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OtlpAction {
    /// It becomes a label of the stream.
    IndexLabel,
    /// It becomes structured metadata of the entry.
    StructuredMetadata,
    /// It is left out.
    Drop,
}
