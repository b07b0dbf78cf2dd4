//! Connections: who may speak, what form it must have, and where the answers go.
