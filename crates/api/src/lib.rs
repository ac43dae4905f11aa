//! The HTTP surface of Loki: routes, codecs, wording of errors.
