# A zone and a certificate for each environment's host name: one more replaces none that the load
# balancer holds. The records that point at it are made by external-dns (addons.tf) from
# ../../charts/payments.

resource "aws_route53_zone" "this" {
  # checkov:skip=CKV2_AWS_38: DNSSEC needs a key in us-east-1 and a hand at the registrar; TLS already proves who answers
  # checkov:skip=CKV2_AWS_39: who asked for a public name is no secret worth $0.50 a gigabyte
  for_each = var.domains

  name          = each.value
  force_destroy = true # with the records in it, which are external-dns's and remade in a minute
}

data "aws_route53_zone" "parent" {
  for_each = toset(var.parent_domain[*])

  name = each.key
}

resource "aws_route53_record" "delegation" {
  for_each = var.parent_domain == null ? {} : var.domains

  zone_id = data.aws_route53_zone.parent[var.parent_domain].zone_id
  name    = each.value
  type    = "NS"
  ttl     = 3600
  records = aws_route53_zone.this[each.key].name_servers
}

resource "aws_acm_certificate" "this" {
  for_each = var.domains

  domain_name       = each.value
  validation_method = "DNS"
  key_algorithm     = "EC_prime256v1" # a third of RSA's handshake cost

  lifecycle {
    create_before_destroy = true
  }
}

locals {
  validation = { for environment, certificate in aws_acm_certificate.this : environment => one([
    for option in certificate.domain_validation_options : option if option.domain_name == var.domains[environment]
  ]) }
}

resource "aws_route53_record" "validation" {
  for_each = var.domains

  zone_id = aws_route53_zone.this[each.key].zone_id
  name    = local.validation[each.key].resource_record_name
  type    = local.validation[each.key].resource_record_type
  ttl     = 300
  records = [local.validation[each.key].resource_record_value]
}

# Waits until the zones are really delegated: without it the load balancer would be made without TLS.
resource "aws_acm_certificate_validation" "this" {
  for_each = aws_acm_certificate.this

  certificate_arn         = each.value.arn
  validation_record_fqdns = [aws_route53_record.validation[each.key].fqdn]

  depends_on = [aws_route53_record.delegation]
}
