#!/bin/sh
# A base image where no image registry can be reached: the machine's own Debian with its Python, made from the machine's
# own package mirror. As root; needs debootstrap and podman.
#
#   deploy/base-image.sh NAME
#
# Such an image has this machine's certificates and package sources in it: for building and trying here, not to publish.
set -eu
name=${1:?usage: deploy/base-image.sh NAME}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

. /etc/os-release
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Origin: Debian' 'Component: main' | head -n 1)
[ -n "$mirror" ] || { echo "base-image.sh: no Debian mirror among this machine's package sources" >&2; exit 1; }

echo "Debian $VERSION_CODENAME from this machine's mirror, some 200 MB" >&2
debootstrap --variant=minbase --include=python3,python3-pip,python3-venv,ca-certificates "$VERSION_CODENAME" "$root" "$mirror" >&2
ln -sf python3 "$root/usr/bin/python"
# As in python:3.11-slim, pip may install into it: `bentoml containerize` does.
rm "$root"/usr/lib/python3*/EXTERNALLY-MANAGED
mkdir -p "$root/usr/local/share/ca-certificates"
cp -r /usr/local/share/ca-certificates/. "$root/usr/local/share/ca-certificates/"
cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/ca-certificates.crt"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*

certificates=/etc/ssl/certs/ca-certificates.crt
tar -C "$root" -c . | podman import --change "ENV SSL_CERT_FILE=$certificates" --change "ENV PIP_CERT=$certificates" \
    --change 'CMD ["python3"]' - "$name"
