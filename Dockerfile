# One image for every role, amd64 and arm64; what runs is chosen by `ugallu run --enable NAME`.
# Why it is made this way: docs/decisions/0022-image.md.
#
#   docker buildx build --platform linux/amd64,linux/arm64 --build-arg SOURCE_DATE_EPOCH=$(git log -1 --format=%ct) .
#   buildah build --timestamp $(git log -1 --format=%ct) .
#
# Settings of the machine that builds (mirrors, proxies, a CA) come as secrets, so that none of them stays in a layer:
# `--secret id=apt.conf,src=...`, `--secret id=pip.conf,src=...`, `--secret id=ca.pem,src=...` (/run/secrets/ca.pem).

# Debian with APT and Python 3.11 or later as `python3`; a release pins it by digest.
ARG BASE=docker.io/library/debian:bookworm-slim

FROM ${BASE} AS debian
ENV DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 PYTHONHASHSEED=0 APT_CONFIG=/run/secrets/apt.conf
RUN --mount=type=secret,id=apt.conf \
    apt-get -qq update \
 && apt-get -qq install --yes --no-install-recommends ca-certificates python3 >/dev/null


FROM debian AS application
RUN --mount=type=secret,id=apt.conf \
    apt-get -qq install --yes --no-install-recommends binutils python3-pip python3-venv >/dev/null
ENV PIP_CONFIG_FILE=/run/secrets/pip.conf PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_NO_COMPILE=1 \
    PIP_ONLY_BINARY=:all: PIP_QUIET=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
COPY requirements.lock requirements-build.lock ./
RUN --mount=type=secret,id=pip.conf --mount=type=secret,id=ca.pem \
    python3 -m venv /build \
 && /build/bin/pip install --require-hashes --requirement requirements-build.lock \
 && python3 -m venv --without-pip /opt/ugallu \
 && /build/bin/pip --python /opt/ugallu/bin/python install --require-hashes --requirement requirements.lock
# Half of what wheels weigh is symbols that nothing reads.
RUN find /opt/ugallu -name '*.so*' -type f -exec strip --strip-unneeded {} +
COPY . .
RUN /build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /wheel . \
 && /build/bin/pip --python /opt/ugallu/bin/python install --no-index --no-deps --find-links /wheel ugallu \
 && rm -rf /opt/ugallu/bin/[Aa]ctivate* /opt/ugallu/bin/*.py /opt/ugallu/bin/__pycache__ /opt/ugallu/include


FROM debian AS system
COPY --from=application /opt/ugallu /opt/ugallu
# The root is read-only at run time, so what can be compiled is compiled here; by hash, since a layer's times are not kept.
RUN python3 -m compileall -q -f --invalidation-mode unchecked-hash /usr/lib/python3 /usr/lib/python3.* \
 && /opt/ugallu/bin/python -m compileall -q -f --invalidation-mode unchecked-hash /opt/ugallu/lib
RUN echo 'ugallu:x:65532:65532:ugallu:/nonexistent:/usr/sbin/nologin' >>/etc/passwd \
 && echo 'ugallu:x:65532:' >>/etc/group \
 && install --directory --owner=65532 --group=65532 --mode=0700 /var/lib/ugallu \
 && find / -xdev -type f -perm /6000 -exec chmod ug-s {} + \
 && find /var/log /var/cache /var/lib/apt /tmp /root -xdev -mindepth 1 -not -type d -delete \
 && rm -rf /etc/machine-id /etc/passwd- /etc/group- /etc/shadow- /etc/gshadow- /etc/subuid- /etc/subgid- \
    /usr/share/doc-base /usr/share/info /usr/share/lintian /usr/share/locale /usr/share/man /var/lib/dpkg/*-old \
 && find /usr/share/doc -not -type d -not -name copyright -delete


# One layer: what was deleted above is not in it.
FROM scratch
COPY --from=system / /
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="ugallu" \
      org.opencontainers.image.description="Detection, forensics and evidence for Kubernetes" \
      org.opencontainers.image.documentation="https://github.com/ugallu/ugallu/tree/main/docs" \
      org.opencontainers.image.source="https://github.com/ugallu/ugallu" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# One heap for all threads: with one each, glibc keeps what a large request took in every one of them (271 MiB, not 199).
ENV PATH=/opt/ugallu/bin:/usr/bin:/bin LANG=C.UTF-8 PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 \
    MALLOC_ARENA_MAX=1
WORKDIR /var/lib/ugallu
USER 65532:65532
ENTRYPOINT ["ugallu"]
