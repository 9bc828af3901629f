"""What `ugallu manifests` writes: everything a cluster needs, generated from what the code declares.

names       how everything is called, and the labels that everything carries
document    one function from documents to YAML
rbac        grants -> accounts, roles, bindings, Leases; refuses what no operator of ours may ask for
roles       which sets of Pods there are: operators, and where their audit log comes from
pods        role -> Pod template: hardened, probed, bounded
workloads   role -> Deployment, StatefulSet or DaemonSet, and what goes with it
network     who may talk to whom
people      ClusterRoles for those who work with the objects
monitoring  what a Prometheus and a Grafana take from us
tree        all of it as files of one Kustomize tree; compares and writes
policies    the page on the admission policies
pages       the pages of docs/ that are made from the code
"""
