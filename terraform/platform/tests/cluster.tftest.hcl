# What cluster.tf, addons.tf and encryption.tf promise.

mock_provider "aws" {
  # Values of the right form, so that the real provider takes them too.
  mock_data "aws_caller_identity" { defaults = { account_id = "123456789012" } }
  mock_data "aws_partition" { defaults = { partition = "aws" } }
  mock_data "aws_iam_policy_document" { defaults = { json = "{}" } } # decoded in ../../testkit/tests
  mock_data "aws_ssm_parameter" { defaults = { value = "ami-0123456789abcdef0" } }
  mock_data "aws_kms_alias" { defaults = { target_key_arn = "arn:aws:kms:us-east-1:123456789012:key/00000000-0000-0000-0000-000000000000" } }
  mock_data "aws_route53_zone" { defaults = { zone_id = "Z0123456789ABCDEFGHIJ" } }
  mock_resource "aws_acm_certificate" {
    defaults = {
      domain_validation_options = [
        { domain_name = "dev.payments.xpto.example", resource_record_name = "_1", resource_record_type = "CNAME", resource_record_value = "_2" },
        { domain_name = "staging.payments.xpto.example", resource_record_name = "_1", resource_record_type = "CNAME", resource_record_value = "_2" },
        { domain_name = "payments.xpto.example", resource_record_name = "_1", resource_record_type = "CNAME", resource_record_value = "_2" },
      ]
    }
  }
}

run "auto_mode_is_on_as_a_whole" {
  command = plan

  assert {
    condition = alltrue([
      one(aws_eks_cluster.this.compute_config).enabled,
      one(one(aws_eks_cluster.this.kubernetes_network_config).elastic_load_balancing).enabled,
      one(one(aws_eks_cluster.this.storage_config).block_storage).enabled,
      aws_eks_cluster.this.bootstrap_self_managed_addons == false,
    ])
    error_message = "AWS takes compute, load balancing and storage of Auto Mode together or not at all."
  }

  assert {
    condition     = one(aws_eks_cluster.this.compute_config).node_pools == toset(["system"])
    error_message = "The built-in pool general-purpose would buy on-demand machines for everything."
  }
}

run "secrets_are_encrypted" {
  command = plan

  assert {
    condition     = one(aws_eks_cluster.this.encryption_config).resources == toset(["secrets"]) && one(one(aws_eks_cluster.this.encryption_config).provider).key_arn == data.aws_kms_alias.this.target_key_arn
    error_message = "Kubernetes secrets are encrypted with the platform's key."
  }
}

run "the_api_is_not_for_the_whole_internet" {
  command = plan

  assert {
    condition     = one(aws_eks_cluster.this.vpc_config).endpoint_private_access && !contains(coalesce(one(aws_eks_cluster.this.vpc_config).public_access_cidrs, []), "0.0.0.0/0")
    error_message = "The API is reached from inside, and from the networks that the settings name."
  }

  assert {
    condition     = one(aws_eks_cluster.this.vpc_config).endpoint_public_access == (length(var.cluster.api_cidrs) > 0)
    error_message = "Without such networks the API is private."
  }
}

run "nobody_is_an_administrator_by_accident" {
  command = plan

  assert {
    condition     = one(aws_eks_cluster.this.access_config).authentication_mode == "API" && one(aws_eks_cluster.this.access_config).bootstrap_cluster_creator_admin_permissions == false
    error_message = "Access is by access entries alone."
  }

  assert {
    condition     = keys(aws_eks_access_policy_association.admin) == ["payments-administrator"]
    error_message = "One role may do everything in the cluster."
  }
}

run "the_pipeline_deploys_to_its_own_namespace" {
  command = plan

  assert {
    condition = { for environment, a in aws_eks_access_policy_association.deploy : environment => { scope = one(a.access_scope).type, namespaces = one(a.access_scope).namespaces } } == {
      for environment in keys(var.domains) : environment => { scope = "namespace", namespaces = toset(["payments-${environment}"]) }
    }
    error_message = "The pipeline's role must not reach another environment's namespace."
  }

  assert {
    condition     = alltrue([for environment, entry in aws_eks_access_entry.deploy : entry.principal_arn == "arn:aws:iam::123456789012:role/payments-ci-apply-environment-${environment}"])
    error_message = "It is the role that bootstrap makes for this place."
  }

  assert {
    condition     = alltrue([for environment, entry in aws_eks_access_entry.deploy : entry.kubernetes_groups == toset(["payments-${environment}-deployers"])])
    error_message = "The group that ../../charts/cluster gives rights to is this environment's."
  }
}

run "a_forgotten_version_is_upgraded_not_billed" {
  command = plan

  assert {
    condition     = one(aws_eks_cluster.this.upgrade_policy).support_type == "STANDARD"
    error_message = "Extended support costs $0.60 an hour instead of $0.10."
  }
}

run "production_is_protected_and_audited" {
  command = plan

  assert {
    condition     = aws_eks_cluster.this.deletion_protection == (var.name == "production")
    error_message = "Production's cluster cannot be deleted by mistake; nonprod's can be torn down."
  }

  assert {
    condition     = coalesce(aws_eks_cluster.this.enabled_cluster_log_types, []) == toset(var.name == "production" ? ["audit", "authenticator"] : [])
    error_message = "Who did what in production's cluster is kept."
  }

  assert {
    condition     = alltrue([for group in aws_cloudwatch_log_group.cluster : group.retention_in_days == 90])
    error_message = "Its logs end after 90 days."
  }
}

run "roles_have_what_auto_mode_needs_and_no_more" {
  command = plan

  assert {
    condition = toset(keys(aws_iam_role_policy_attachment.cluster)) == toset([
      "AmazonEKSBlockStoragePolicy", "AmazonEKSClusterPolicy", "AmazonEKSComputePolicy",
      "AmazonEKSLoadBalancingPolicy", "AmazonEKSNetworkingPolicy",
    ])
    error_message = "The cluster's role has the five policies of Auto Mode."
  }

  assert {
    condition     = toset(keys(aws_iam_role_policy_attachment.node)) == toset(["AmazonEC2ContainerRegistryPullOnly", "AmazonEKSWorkerNodeMinimalPolicy"])
    error_message = "Nodes join and pull images, and nothing else."
  }

  assert {
    condition     = alltrue([for role in concat([aws_iam_role.cluster, aws_iam_role.node, aws_iam_role.external_dns], aws_iam_role.flow) : endswith(role.permissions_boundary, ":policy/payments-workload-platform-${var.name}")])
    error_message = "Every role carries the boundary."
  }
}

run "add_ons_come_from_the_eks_api" {
  command = plan

  assert {
    condition     = toset(keys(aws_eks_addon.this)) == toset(["external-dns", "metrics-server"])
    error_message = "What Auto Mode does not bring is an add-on."
  }

  assert {
    condition     = toset(jsondecode(aws_eks_addon.this["external-dns"].configuration_values).domainFilters) == toset(values(var.domains))
    error_message = "external-dns keeps to its own zones."
  }
}
