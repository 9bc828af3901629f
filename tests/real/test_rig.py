"""What the rig promises: each size of cluster works, is told apart from its neighbours, and leaves nothing behind."""

import pytest

from tests.rig.cluster import ApiServer
from tests.rig.ground import RigError

pytestmark = pytest.mark.real


def test_a_service_account_may_do_what_it_was_granted_and_nothing_else(api: ApiServer) -> None:
    """A new ServiceAccount's token is known to the API server and refused by RBAC."""
    namespace = api.namespace()
    api.service_account(namespace, "clerk")
    token = api.token(namespace, "clerk")
    assert api.request("GET", f"/api/v1/namespaces/{namespace}/pods", token=token)[0] == 403
    assert api.request("GET", "/api/v1/pods", token="invented")[0] == 401
    with pytest.raises(RigError, match="Forbidden"):
        api.kubectl("get", "pods", "-n", namespace, kubeconfig=api.kubeconfig_with(token))
