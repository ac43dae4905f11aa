//! Validates, limits and hashes pushes and sends them to ingesters.
