#!/bin/sh
# Writes the project's own registry and the job's token where imagekit looks for credentials.
# printf is part of the shell: the token is no argument of any program.
set -eu
umask 077
mkdir -p ~/.docker
auth=$(printf '%s:%s' "$CI_REGISTRY_USER" "$CI_REGISTRY_PASSWORD" | base64 --wrap=0)
printf '{"auths": {"%s": {"auth": "%s"}}}\n' "$CI_REGISTRY" "$auth" > ~/.docker/config.json
