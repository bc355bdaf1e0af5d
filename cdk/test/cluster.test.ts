import { existsSync, readFileSync } from 'node:fs';
import { Match } from 'aws-cdk-lib/assertions';
import { describe, expect, test } from 'vitest';
import { AGENTD_PORT, GROUPS } from '../lib/cluster/names.ts';
import { Synthesised, synthesised } from './synthesised.ts';

const STACK = 'CarapaceCluster';
const app = synthesised('aws');
const addons = (of: Synthesised) =>
  new Map(
    Object.entries(of.resources(STACK, 'AWS::EKS::Addon')).map(([id, addon]) => [
      addon.Properties.AddonName as string,
      { id, ...addon },
    ]),
  );

describe('the cluster', () => {
  test('knows callers by IAM alone, and its creator has no power in it', () => {
    app.template(STACK).hasResourceProperties('AWS::EKS::Cluster', {
      Name: 'carapace',
      AccessConfig: { AuthenticationMode: 'API', BootstrapClusterCreatorAdminPermissions: false },
      EncryptionConfig: [{ Resources: ['secrets'] }],
      Logging: {
        ClusterLogging: {
          EnabledTypes: ['api', 'audit', 'authenticator', 'controllerManager', 'scheduler'].map((Type) => ({ Type })),
        },
      },
    });
  });

  test('has no public endpoint unless operators name their networks', () => {
    const endpoint = (of: Synthesised) => of.resource(STACK, 'AWS::EKS::Cluster')[1].Properties.ResourcesVpcConfig;
    expect(endpoint(app)).toMatchObject({ EndpointPrivateAccess: true, EndpointPublicAccess: false });
    expect(endpoint(new Synthesised('aws', { operatorCidrs: '203.0.113.0/24' }))).toMatchObject({
      EndpointPrivateAccess: true,
      EndpointPublicAccess: true,
      PublicAccessCidrs: ['203.0.113.0/24'],
    });
  });

  test('is administered by the roles that were named', () => {
    const admin = 'arn:aws:iam::111122223333:role/Operators';
    expect(app.resources(STACK, 'AWS::EKS::AccessEntry')).toEqual({});
    new Synthesised('aws', { clusterAdmins: admin }).template(STACK).hasResourceProperties('AWS::EKS::AccessEntry', {
      PrincipalArn: admin,
      AccessPolicies: [{ AccessScope: { Type: 'cluster' } }],
    });
  });

  test('denies a new pod everything until its policies say otherwise', () => {
    expect(JSON.parse(addons(app).get('vpc-cni')?.Properties.ConfigurationValues)).toEqual({
      enableNetworkPolicy: 'true',
      env: { NETWORK_POLICY_ENFORCING_MODE: 'strict' },
    });
  });

  test('waits for nodes with CoreDNS and for add-ons with nodes, never the other way round', () => {
    const [nodes, { DependsOn }] = app.resource(STACK, 'AWS::EKS::Nodegroup');
    expect(DependsOn).toEqual(
      expect.arrayContaining(
        ['vpc-cni', 'kube-proxy', 'eks-pod-identity-agent'].map((name) => addons(app).get(name)?.id),
      ),
    );
    expect([...addons(app).keys()]).not.toContain('coredns');
    expect(addons(new Synthesised('aws', { manageCoreDns: 'true' })).get('coredns')?.DependsOn).toContain(nodes);
  });

  test('keeps the credentials of a node from its pods', () => {
    app.template(STACK).hasResourceProperties('AWS::EC2::LaunchTemplate', {
      LaunchTemplateData: { MetadataOptions: { HttpTokens: 'required', HttpPutResponseHopLimit: 1 } },
    });
    const nodeRole = app.resource(STACK, 'AWS::IAM::Role', /^SystemNodes/)[1];
    expect(JSON.stringify(nodeRole)).not.toContain('CNI');
  });

  test('lets its clients in on the three ports they need, and out on no more', () => {
    const [clients, group] = app.resource(STACK, 'AWS::EC2::SecurityGroup', /^Clients/);
    expect(
      group.Properties.SecurityGroupEgress.map((rule: { CidrIp: string; FromPort: number; ToPort: number }) => [
        rule.CidrIp,
        rule.FromPort,
        rule.ToPort,
      ]),
    ).toEqual([
      ['0.0.0.0/0', 443, 443],
      ['10.20.0.0/16', AGENTD_PORT, AGENTD_PORT],
      ['10.20.0.0/16', 4000, 4000],
    ]);
    const rules = Object.values(app.resources(STACK, 'AWS::EC2::SecurityGroupIngress'));
    expect(rules.map(({ Properties }) => Properties.FromPort).sort()).toEqual([AGENTD_PORT, 4000, 443].sort());
    for (const { Properties } of rules)
      expect(Properties.SourceSecurityGroupId).toEqual({ 'Fn::GetAtt': [clients, 'GroupId'] });
  });

  test('names the group that nodes must carry for its clients to be let in', () => {
    const rules = Object.values(app.resources(STACK, 'AWS::EC2::SecurityGroupIngress'));
    const { Value } = app.json(STACK).Outputs.ClusterSecurityGroupId;
    expect(rules).toHaveLength(3);
    for (const { Properties } of rules) expect(Properties.GroupId).toEqual(Value);
  });

  test('admits four functions, each into the group of its own', () => {
    const entries = app.resources('CarapaceControlPlane', 'AWS::EKS::AccessEntry');
    expect(
      Object.values(entries).map(({ Properties }) => [
        Properties.PrincipalArn['Fn::GetAtt'][0].slice(0, 12),
        Properties.Type,
        Properties.KubernetesGroups,
        Properties.AccessPolicies,
      ]),
    ).toEqual([
      ['SandboxClaim', 'STANDARD', [GROUPS.sandboxClaim], undefined],
      ['SandboxBindR', 'STANDARD', [GROUPS.sandboxBind], undefined],
      ['SandboxRetir', 'STANDARD', [GROUPS.sandboxRetire], undefined],
      ['Conversation', 'STANDARD', [GROUPS.conversationTurn], undefined],
    ]);
  });

  const values = new URL('../../cluster/charts/agents/values.yaml', import.meta.url);
  test.runIf(existsSync(values))('uses the groups to which the agents chart binds roles', () => {
    const groups = /^ {2}groups:\n((?: {4}.*\n)+)/m.exec(readFileSync(values, 'utf8'))?.[1] ?? '';
    const inChart = Object.fromEntries(
      [...groups.matchAll(/^ {4}(\w+): (\S+)$/gm)].map(([, key, group]) => [key, group]),
    );
    expect(inChart).toEqual(GROUPS);
  });

  test('hands Kubernetes Secrets to a key that rotates', () => {
    app.template(STACK).hasResourceProperties('AWS::KMS::Key', { EnableKeyRotation: true, KeySpec: Match.absent() });
  });
});
