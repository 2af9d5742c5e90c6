# Sourced by `up`, `down` and `run`: what may be set in the environment, and where things are.
# shellcheck shell=bash disable=SC2034
dev=$root/.dev
kafka_port=${KAFKA_PORT:-9092}
postgres_port=${POSTGRES_PORT:-5433}
gateway_port=${GATEWAY_PORT:-8080}
consumer_port=${CONSUMER_PORT:-8180}
gateways=${GATEWAYS:-1}
consumers=${CONSUMERS:-1}
profile=${PROFILE:-dev}

for setting in kafka_port postgres_port gateway_port consumer_port gateways consumers; do
  [[ ${!setting} =~ ^[0-9]{1,5}$ ]] || die "${setting^^} has to be a number, not \"${!setting}\""
done
((gateways >= 1 && consumers >= 1)) || die "GATEWAYS and CONSUMERS have to be 1 at least"

target=${CARGO_TARGET_DIR:-$root/target}
case $profile in
  dev) bin=$target/debug ;;
  release) bin=$target/release ;;
  *) die "PROFILE has to be dev or release, not \"$profile\"" ;;
esac
