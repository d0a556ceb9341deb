// SPDX-License-Identifier: Apache-2.0

// Package deploy has what brings replypath to many hosts: a Helm chart, manifests that are made from it, and an Ansible
// role. What renders and checks the chart needs Helm's and Kubernetes' own libraries, and is a module of its own.
package deploy

//go:generate go -C helm run . ../kubernetes
