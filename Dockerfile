# All four programs in one image; the command says which one runs.
FROM rust:1.95-bookworm AS build
WORKDIR /build
COPY . .
# The caches outlive the step, so the programs are copied out of it.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/build/target \
    cargo build --release --locked --bins \
    && mkdir /programs \
    && for name in gateway consumer admin phone; do cp "target/release/milepost-$name" /programs/; done

FROM debian:bookworm-slim
# Health checks need no shell: milepost-gateway healthcheck.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --no-create-home --uid 10001 milepost
COPY --from=build /programs/ /usr/local/bin/
USER milepost
EXPOSE 8080 8081
CMD ["milepost-gateway"]
