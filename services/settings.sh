# Sourced by `up`, `down` and `run`: what may be set in the environment, and where things are.
# shellcheck shell=bash disable=SC2034
dev=$root/.dev
kafka_port=${KAFKA_PORT:-9092}
postgres_port=${POSTGRES_PORT:-5433}
gateway_port=${GATEWAY_PORT:-8080}
consumer_port=${CONSUMER_PORT:-8180}
# Where the gateways listen: 0.0.0.0 lets phones of the same network in.
listen=${LISTEN:-127.0.0.1}
gateways=${GATEWAYS:-1}
consumers=${CONSUMERS:-1}
profile=${PROFILE:-dev}

for setting in kafka_port postgres_port gateway_port consumer_port gateways consumers; do
  [[ ${!setting} =~ ^[0-9]{1,5}$ ]] || die "${setting^^} has to be a number, not \"${!setting}\""
done
[[ $listen =~ ^[0-9]{1,3}(\.[0-9]{1,3}){3}$ ]] \
  || die "LISTEN has to be an IPv4 address, such as 0.0.0.0, not \"$listen\""
((gateways >= 1 && consumers >= 1)) || die "GATEWAYS and CONSUMERS have to be 1 at least"

target=${CARGO_TARGET_DIR:-$root/target}
case $profile in
  dev) bin=$target/debug ;;
  release) bin=$target/release ;;
  *) die "PROFILE has to be dev or release, not \"$profile\"" ;;
esac
