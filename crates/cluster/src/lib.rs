//! Membership, the ring, replica choice and client pools.
