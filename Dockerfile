# The image has one file, a static tcplb, and no shell: docker build -t tcplb .
FROM rust:1.95-alpine AS build
WORKDIR /tcplb
# A C compiler for the one dependency with C code (ring).
# hadolint ignore=DL3018
RUN apk add --no-cache musl-dev gcc
COPY . .
RUN cargo build --locked --release --bin tcplb && strip target/release/tcplb

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /tcplb/target/release/tcplb /tcplb
# No user of this number has a name here; tcplb needs none.
USER 65532:65532
# The answer of the API is a sign of life, whatever the backends do. It needs admin = "127.0.0.1:9900" or another TCPLB_ADMIN.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["/tcplb", "status"]
ENTRYPOINT ["/tcplb"]
CMD ["--config", "/etc/tcplb/tcplb.toml"]
