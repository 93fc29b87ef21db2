#!/bin/sh
# A whole release on one machine: plan, base, cells, push, verify, table. See docs/scaling-out.md.
#
#   PUSH=registry.example/team KEY=/safe/enclave-key.pem ./release.sh [OPTION…]
#
# Options are those of imagekit for registries: --insecure, --cacert FILE. Run again after a failure
# it does what is missing. Environment:
#   PUSH           HOST/PATH below which the images go (required)
#   KEY            the signing key (required); its passphrase: IMAGEKIT_KEY_PASSPHRASE
#   PROJECT        what is released; default: imagekit.yaml beside this script
#   BASE_PROJECT   what describes the base; default: the quickstart. Empty: the base is there already
#   OUT            folder for the images, and OUT.json for what was built; default: out
#   ALLOW_STANDIN  not empty: a stand-in for Gramine will do. Never for a real release
set -eu
here=$(dirname "$0")
: "${PUSH:?say where to push to: HOST/PATH}" "${KEY:?say which key signs: a PEM file}"
PROJECT=${PROJECT-$here/imagekit.yaml}
BASE_PROJECT=${BASE_PROJECT-$here/../quickstart/imagekit.yaml}
OUT=${OUT:-out}
folder=$(dirname "$PROJECT")

imagekit plan --file "$PROJECT"
if [ -n "$BASE_PROJECT" ]; then
    imagekit base build --file "$BASE_PROJECT" --output "oci:$folder/base"
fi

# What all images must have is known before they are there: it comes from the key.
mr_signer=$(imagekit key show "$KEY" | sed -n 's/^mr_signer *: //p')
[ -n "$mr_signer" ] || exit 3
imagekit build --file "$PROJECT" --all --key "$KEY" \
    --output "oci:$OUT" --push "$PUSH" --metadata-file "$OUT.json" "$@"

# Each image is taken from the registry, by its digest, and checked from its own content.
python3 "$here/report.py" --references "$OUT.json" > "$OUT.references"
while read -r reference; do
    imagekit verify "$reference" --mr-signer "$mr_signer" --lock "$folder/imagekit.lock.json" \
        ${ALLOW_STANDIN:+--allow-standin} "$@" < /dev/null
done < "$OUT.references"
python3 "$here/report.py" "$OUT.json"
