"""Key management and attestation services: accounts, quotes, registration of measurements."""
