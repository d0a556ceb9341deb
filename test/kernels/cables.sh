# Joins taps by pairs, cable0a with cable0b and so on, in this network namespace, which nobody else is in, and runs a program.
set -e
sysctl -q -w net.ipv6.conf.default.disable_ipv6=1
last=$(($1 - 1))
shift
for cable in $(seq 0 "$last"); do
  ip link add "cable$cable" type bridge mcast_snooping 0
  for end in a b; do
    ip tuntap add "cable$cable$end" mode tap
    ip link set "cable$cable$end" master "cable$cable" up
  done
  ip link set "cable$cable" up
done
exec "$@"
