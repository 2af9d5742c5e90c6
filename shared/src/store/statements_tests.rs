//! Every statement of the store fits the schema and the rights of the roles that run it, whether or not another test runs it.
//! The statements are read from the sources. Postgres plans each and prepares to run it, which checks the rights, but runs none.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use sqlx::{Executor as _, PgConnection};
use syn::visit::{self, Visit};
use syn::{Expr, ExprCall, ExprMethodCall, ItemConst, Lit, Local, Pat, Signature};

use super::testing::{Role, database};
use super::{batch, copy};

const CONSUMER: &[Role] = &[Role::Consumer];
const GATEWAY: &[Role] = &[Role::Gateway];
const OWNER: &[Role] = &[Role::Owner];

/// Who runs the statements of each function.
const RUN_BY: &[(&str, &[Role])] = &[
    ("accounts::accounts", OWNER),
    ("accounts::create_account", OWNER),
    ("accounts::create_key", OWNER),
    ("accounts::keys", OWNER),
    ("accounts::revoke_device", OWNER),
    ("accounts::revoke_key", OWNER),
    ("api_keys::find", GATEWAY),
    ("api_keys::horizon", GATEWAY),
    ("api_keys::note_uses", GATEWAY),
    ("api_keys::page", GATEWAY),
    ("batch::fence", CONSUMER),
    ("batch::insert_dead_letters", CONSUMER),
    ("batch::insert_keys_and_devices", CONSUMER),
    ("batch::insert_locations", CONSUMER),
    ("batch::known_accounts", CONSUMER),
    ("connect::is_read_only", &[Role::Consumer, Role::Gateway, Role::Owner]),
    ("dead_letters::newest", OWNER),
    ("dead_letters::value", OWNER),
    ("locations::count", OWNER),
    ("lookup::next_offsets", GATEWAY),
    ("lookup::windows", GATEWAY),
    ("migrate::check_version", &[Role::Consumer, Role::Gateway, Role::Owner]),
    ("migrate::migrate", OWNER),
    ("migrate::oldest_transaction", OWNER),
    ("partitions::check_ttl", CONSUMER),
    ("partitions::drop_detached", CONSUMER),
    ("partitions::ensure", CONSUMER),
    ("partitions::expire", CONSUMER),
    ("partitions::key_partitions", CONSUMER),
    ("partitions::oldest_keep_until", CONSUMER),
    ("partitions::server_time", CONSUMER),
    ("partitions::set_ttl", OWNER),
    ("progress::begin", CONSUMER),
    ("progress::behind", CONSUMER),
    ("progress::load", &[Role::Consumer, Role::Owner]),
    ("progress::note_emitted", CONSUMER),
    ("progress::place", OWNER),
    ("progress::poison_run", CONSUMER),
    ("roles::alter_role", OWNER),
    ("roles::left_open", OWNER),
    ("roles::restrict", OWNER),
];

/// Functions with one statement that is no literal. The first is made of the table of fields, and checked below; the server
/// itself puts the others together.
const NOT_LITERAL: [&str; 3] = ["batch::insert_locations", "roles::alter_role", "roles::restrict"];

/// The statements of one file, outside its tests.
#[derive(Default)]
struct Statements {
    file: String,
    function: String,
    /// Texts by the names of constants and variables.
    texts: BTreeMap<String, String>,
    /// Calls of sqlx's functions that take a statement.
    calls: usize,
    /// (Function, statement).
    literal: Vec<(String, String)>,
    /// Functions, once for each statement.
    not_literal: Vec<String>,
}

impl Statements {
    fn read(path: &Path) -> Self {
        let source = std::fs::read_to_string(path).unwrap();
        let product = source.split("#[cfg(test)]").next().unwrap();
        let file = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let mut statements = Self { file, ..Self::default() };
        statements.visit_file(&syn::parse_file(product).unwrap());
        let mentioned =
            ["sqlx::query", "sqlx::raw_sql", "QueryBuilder"].map(|name| product.matches(name).count());
        assert_eq!(
            statements.calls,
            mentioned.iter().sum::<usize>(),
            "not all calls in {path:?} are recognised"
        );
        statements
    }

    fn text(&self, expression: &Expr) -> Option<String> {
        match expression {
            Expr::Lit(literal) => match &literal.lit {
                Lit::Str(text) => Some(text.value()),
                _ => None,
            },
            Expr::Path(path) => self.texts.get(&path.path.get_ident()?.to_string()).cloned(),
            _ => None,
        }
    }

    fn function(&self) -> String {
        format!("{}::{}", self.file, self.function)
    }
}

impl<'ast> Visit<'ast> for Statements {
    fn visit_signature(&mut self, signature: &'ast Signature) {
        self.function = signature.ident.to_string();
    }

    fn visit_item_const(&mut self, constant: &'ast ItemConst) {
        self.texts.extend(self.text(&constant.expr).map(|text| (constant.ident.to_string(), text)));
    }

    fn visit_local(&mut self, local: &'ast Local) {
        if let (Pat::Ident(name), Some(value)) = (&local.pat, &local.init) {
            self.texts.extend(self.text(&value.expr).map(|text| (name.ident.to_string(), text)));
        }
        visit::visit_local(self, local);
    }

    fn visit_expr_call(&mut self, call: &'ast ExprCall) {
        if let Expr::Path(path) = &*call.func {
            let names: Vec<String> = path.path.segments.iter().map(|name| name.ident.to_string()).collect();
            if let [.., sqlx, name] = &names[..]
                && sqlx == "sqlx"
                && (name.starts_with("query") || name == "raw_sql")
            {
                self.calls += 1;
                match self.text(&call.args[0]) {
                    Some(text) => self.literal.push((self.function(), text)),
                    None => self.not_literal.push(self.function()),
                }
            }
        }
        visit::visit_expr_call(self, call);
    }

    /// `connection.execute(statement)`; the argument of `query.execute(connection)` is no text.
    fn visit_expr_method_call(&mut self, call: &'ast ExprMethodCall) {
        if call.method == "execute"
            && let Some(text) = self.text(&call.args[0])
        {
            self.literal.push((self.function(), text));
        }
        visit::visit_expr_method_call(self, call);
    }
}

/// Every literal statement and who runs it.
fn statements() -> Vec<(String, String)> {
    let store = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store");
    let files = std::fs::read_dir(store).unwrap().map(|file| file.unwrap().path());
    let product = files.filter(|path| {
        let name = path.file_name().unwrap().to_str().unwrap();
        name.ends_with(".rs") && !name.ends_with("_tests.rs") && name != "testing.rs"
    });
    let (mut literal, mut not_literal) = (Vec::new(), Vec::new());
    for file in product {
        let statements = Statements::read(&file);
        literal.extend(statements.literal);
        not_literal.extend(statements.not_literal);
    }
    not_literal.sort_unstable();
    assert_eq!(not_literal, NOT_LITERAL, "write them as literals");
    literal.push((NOT_LITERAL[0].to_owned(), batch::INSERT_LOCATIONS.clone()));
    literal
}

/// Plans the statement and prepares to run it, with parameters whose values the plan does not depend on.
async fn explain(connection: &mut PgConnection, statement: &str) -> sqlx::Result<()> {
    if statement.starts_with("SET ") || statement.starts_with("RESET ") {
        return connection.execute(statement).await.map(drop);
    }
    connection.execute(format!("PREPARE checked AS {statement}").as_str()).await?;
    let parameters: i32 = sqlx::query_scalar(
        "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'checked'",
    )
    .fetch_one(&mut *connection)
    .await?;
    let nulls = (0..parameters).map(|_| "NULL").collect::<Vec<_>>().join(", ");
    let arguments = if nulls.is_empty() { nulls } else { format!("({nulls})") };
    let explained = connection.execute(format!("EXPLAIN EXECUTE checked {arguments}").as_str()).await;
    connection.execute("DEALLOCATE checked").await?;
    explained.map(drop)
}

#[tokio::test]
async fn every_statement_fits_the_schema_and_the_rights_of_those_who_run_it() {
    let statements = statements();
    let functions: BTreeSet<&str> = statements.iter().map(|(function, _)| &**function).collect();
    let listed: BTreeSet<&str> = RUN_BY.iter().map(|(function, _)| *function).collect();
    let differing: Vec<_> = functions.symmetric_difference(&listed).collect();
    assert!(differing.is_empty(), "with statements or listed in RUN_BY, but not both: {differing:?}");
    let database = database().await;
    let mut faults = Vec::new();
    for (function, roles) in RUN_BY {
        for role in *roles {
            let mut connection = database.connect(*role).await;
            for (_, statement) in statements.iter().filter(|(of, _)| of == function) {
                if let Err(error) = explain(&mut connection, statement).await {
                    faults.push(format!("{function} as {role:?}: {error}"));
                }
            }
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

/// Postgres does not look at a COPY before it runs it.
#[tokio::test]
async fn both_copies_fit_the_schema_and_the_consumers_rights() {
    let database = database().await;
    let mut consumer = database.connect(Role::Consumer).await;
    let no_keys = copy::encode_keys(std::iter::empty());
    copy::copy_in(&mut consumer, copy::KEYS, &no_keys).await.unwrap();
    copy::copy_in(&mut consumer, &copy::LOCATIONS, &copy::encode_locations(&[])).await.unwrap();
}
