# A zone for each environment's host name, delegated from the zone of the host that it lies under, if
# that is here too. Made here, where only people change anything: no pipeline can answer for another's
# name. Records that point at load balancers are external-dns's, those that validate certificates the
# platform's (../platform/dns.tf).

locals {
  hosts = merge([for platform, p in var.platforms : { for environment, host in p.hosts : environment => { platform = platform, host = host } }]...)

  # The longest of them, where there are several.
  above = { for environment, h in local.hosts : environment => {
    for other, o in local.hosts : format("%03d", length(o.host)) => other if endswith(h.host, ".${o.host}")
  } }
  parents = { for environment, found in local.above : environment => try(found[reverse(sort(keys(found)))[0]], null) }
}

resource "aws_route53_zone" "this" {
  # checkov:skip=CKV2_AWS_38: DNSSEC needs a key in us-east-1 and a hand at the registrar; TLS already proves who answers
  # checkov:skip=CKV2_AWS_39: who asked for a public name is no secret worth $0.50 a gigabyte
  for_each = local.hosts

  name = each.value.host

  tags = { platform = each.value.platform }
}

resource "aws_route53_record" "delegation" {
  for_each = { for environment, parent in local.parents : environment => parent if parent != null }

  zone_id = aws_route53_zone.this[each.value].zone_id
  name    = local.hosts[each.key].host
  type    = "NS"
  ttl     = 3600
  records = aws_route53_zone.this[each.key].name_servers
}
