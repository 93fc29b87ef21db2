"""TLS keys, passwords, data keys and Kubernetes objects, made without openssl or keytool."""
