// What makes the dashboard has requirements of its own: see main.go.
module replypath/packaging/grafana

go 1.26.0

require github.com/grafana/grafana-foundation-sdk/go v0.0.22
