"""deploy/kubernetes: what the worker makes of the templates fits Kubernetes' own schemas."""

import json

import jsonschema
import kubernetes_validate
import pytest
import yaml
from prefect.utilities.templating import apply_values

from tests.command_line import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
#: The newest for which the package has schemas of all that is used here.
VERSION = "1.33"


def template(pool: str):
    return json.loads((FOLDER / f"base-job-template-{pool}.json").read_text())


def job(pool: str) -> dict:
    """The job that the pool's worker makes for a run, as Prefect fills the template in."""
    wanted = template(pool)
    properties = wanted["variables"]["properties"]
    values = {name: told["default"] for name, told in properties.items() if "default" in told}
    values |= {"name": "synthesize-noonan", "command": ["prefect", "flow-run", "execute"]}
    values["env"] = [{"name": "PREFECT_API_URL", "value": "http://prefect-server:4200/api"}]
    filled = apply_values(wanted["job_configuration"]["job_manifest"], values)
    # Prefect's worker refuses a template without them; Kubernetes ignores them there.
    pod = filled["spec"]["template"]["spec"]
    assert (pod.pop("parallelism"), pod.pop("completions")) == (1, 1)
    return filled


@pytest.mark.parametrize("pool", ["gpu", "cpu"])
def test_the_job_is_one(pool):
    kubernetes_validate.validate(job(pool), VERSION, strict=True)
    broken = job(pool)
    broken["spec"]["template"]["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(broken, VERSION, strict=True)


@pytest.mark.parametrize("pool", ["gpu", "cpu"])
def test_every_variable_is_used_and_every_placeholder_is_a_variable(pool):
    wanted = template(pool)
    jsonschema.Draft202012Validator.check_schema(wanted["variables"])
    text = json.dumps(wanted["job_configuration"])
    names = set(wanted["variables"]["properties"])
    assert {part.split(" }}")[0] for part in text.split("{{ ")[1:]} == names


def test_a_class_has_one_gpu_and_the_other_pool_none():
    limits = {
        pool: job(pool)["spec"]["template"]["spec"]["containers"][0]["resources"]["limits"]
        for pool in ("gpu", "cpu")
    }
    assert limits["gpu"]["nvidia.com/gpu"] == "1"
    assert "nvidia.com/gpu" not in limits["cpu"]
    assert all("memory" in limit for limit in limits.values())


@pytest.mark.parametrize("pool", ["gpu", "cpu"])
def test_the_job_keeps_to_the_restricted_profile(pool):
    """Pod Security Standards, profile "restricted", as far as it speaks of what we have."""
    made = job(pool)
    pod = made["spec"]["template"]["spec"]
    assert made["spec"]["backoffLimit"] == 0, "Kubernetes would run a class again beside the study"
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert all("hostPath" not in volume for volume in pod["volumes"])
    (container,) = pod["containers"]
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "privileged": False,
        "capabilities": {"drop": ["ALL"]},
    }
    photos = next(m for m in container["volumeMounts"] if m["name"] == "photos")
    assert photos["readOnly"] is True


def test_the_cluster_s_own_objects_are_some():
    objects = list(yaml.safe_load_all((FOLDER / "cluster.yaml").read_text()))
    for each in objects:
        kubernetes_validate.validate(each, VERSION, strict=True)
    claims = {e["metadata"]["name"] for e in objects if e["kind"] == "PersistentVolumeClaim"}
    for pool in ("gpu", "cpu"):
        volumes = job(pool)["spec"]["template"]["spec"]["volumes"]
        used = {v["persistentVolumeClaim"]["claimName"] for v in volumes if "emptyDir" not in v}
        assert used == claims


@pytest.mark.parametrize("name", ["server", "worker-gpu", "worker-cpu"])
def test_no_value_is_a_secret_and_nothing_is_open(name):
    text = (FOLDER / f"{name}-values.yaml").read_text()
    values = yaml.safe_load(text)
    for line in text.splitlines():
        assert "authString:" not in line and "password:" not in line, line
    if name == "server":
        assert values["server"]["basicAuth"] == {
            "enabled": True,
            "existingSecret": "synth-pipeline-auth",
        }
        assert values["service"]["type"] == "ClusterIP" and not values["ingress"]["enabled"]
    else:
        pool = name.removeprefix("worker-")
        assert values["worker"]["config"]["workPool"] == pool


def test_the_server_is_the_guarded_one():
    """Its pages ask nobody else; the file comes from a config map that the instructions make."""
    server = yaml.safe_load((FOLDER / "server-values.yaml").read_text())["server"]
    (volume,), (mount,) = server["extraVolumes"], server["extraVolumeMounts"]
    assert f"{mount['mountPath']}/guarded_server.py" in server["args"]
    assert volume["name"] == mount["name"] and "--no-services" in server["args"]
    made = f"configmap {volume['configMap']['name']} --from-file=flows/guarded_server.py"
    assert made in (FOLDER / "README.md").read_text()
    assert (ROOT / "flows" / "guarded_server.py").is_file()
