//! tokio-postgres with the pool deadpool: see scenario.py. Statements are prepared once for each connection, and a connection
//! is cleaned when it comes back.

use deadpool_postgres::{Config, ManagerConfig, Object, Pool, PoolConfig, RecyclingMethod, Runtime, Transaction};
use serde_json::Value;
use std::error::Error;
use std::time::Duration;
use tokio_postgres::NoTls;

const CARRIERS: [(&str, &str); 3] = [("alice", "UA"), ("bob", "AA"), ("carol", "DL")];
const PRESENT: &str = "SELECT set_config('bodata.impersonation_token', $1, true)";
const SEEN: &str = "SELECT min(carrier), max(carrier), count(*) FROM app.orders WHERE id > $1";
const STATE: &str = "SELECT current_user::text, current_setting('work_mem'), nullif(current_setting('app.left', true), ''), \
                     to_regclass('pg_temp.left_behind')::text";
const DIVIDE: &str = "SELECT 1 / (count(*) - count(*)) FROM app.orders";
const TRANSACTIONS: usize = 200;

type Done<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

fn code<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a str> {
    error.downcast_ref::<tokio_postgres::Error>()?.code().map(|state| state.code())
}

fn check(holds: bool, what: impl Into<String>) -> Done {
    if holds { Ok(()) } else { Err(what.into().into()) }
}

fn open(given: &Value) -> Done<Pool> {
    let said = |name: &str| given["where"][name].as_str().map(str::to_owned);
    let mut config = Config::new();
    (config.host, config.user, config.password, config.dbname) = (said("host"), said("user"), said("password"), said("dbname"));
    config.port = given["where"]["port"].as_u64().map(|port| port as u16);
    config.manager = Some(ManagerConfig { recycling_method: RecyclingMethod::Clean });
    config.pool = Some(PoolConfig::new(2));
    Ok(config.create_pool(Some(Runtime::Tokio1), NoTls)?)
}

async fn seen(on: &Transaction<'_>, carrier: &str) -> Done {
    let statement = on.prepare_cached(SEEN).await?;
    let row = on.query_one(&statement, &[&0i32]).await?;
    let (low, high, count): (String, String, i64) = (row.get(0), row.get(1), row.get(2));
    check((&*low, &*high, count) == (carrier, carrier, 10), format!("{carrier} sees {low} {high} {count}"))
}

async fn work(on: &mut Transaction<'_>, number: usize, user: &str, carrier: &str, token: &str) -> Done {
    on.execute(&on.prepare_cached(PRESENT).await?, &[&token]).await?;
    seen(on, carrier).await?;
    let row = on.query_one(&on.prepare_cached(STATE).await?, &[]).await?;
    let state: (String, String, Option<String>, Option<String>) = (row.get(0), row.get(1), row.get(2), row.get(3));
    check(state == (user.into(), "4MB".into(), None, None), format!("{state:?}"))?;
    match number % 10 {
        1 => {
            let nested = on.transaction().await?;
            nested.execute("INSERT INTO app.orders (carrier) VALUES ($1)", &[&carrier]).await?;
            let error = nested.query(DIVIDE, &[]).await.err().ok_or("divided by zero")?;
            check(code(&error) == Some("22012"), format!("{error}"))?;
            nested.rollback().await?;
        }
        3 => drop(on.query(DIVIDE, &[]).await?),
        5 => {
            on.batch_execute("SELECT set_config('work_mem', '5MB', false), set_config('app.left', 'x', false)").await?;
            on.batch_execute("CREATE TEMP TABLE left_behind (a int)").await?;
        }
        7 => {
            on.execute("INSERT INTO app.orders (carrier, note) VALUES ($1, 'mine')", &[&carrier]).await?;
            on.execute("DELETE FROM app.orders WHERE note = $1", &[&"mine"]).await?;
        }
        9 if number % 50 == 49 => {
            // By the protocol, from another connection.
            let cancel = on.client().cancel_token();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                let _ = cancel.cancel_query(NoTls).await;
            });
            on.query("SELECT pg_sleep(20)", &[]).await?;
        }
        _ => {}
    }
    seen(on, carrier).await
}

async fn transaction(client: &mut Object, number: usize, given: &Value) -> Done {
    let (user, carrier) = CARRIERS[number % 3];
    let token = given["tokens"][user].as_str().ok_or("no token")?;
    let mut on = client.transaction().await?;
    work(&mut on, number, user, carrier, token).await?;
    Ok(on.commit().await?)
}

async fn some(pool: Pool, given: Value, numbers: impl Iterator<Item = usize>) -> Done {
    for number in numbers {
        let mut client = pool.get().await?;
        let expected = if number % 10 == 3 {
            Some("22012")
        } else if number % 50 == 49 {
            Some("57014")
        } else {
            None
        };
        match (transaction(&mut client, number, &given).await, expected) {
            (Ok(()), None) => {}
            (Err(error), Some(state)) if code(&*error) == Some(state) => {}
            (other, _) => return Err(format!("{number}: {other:?}").into()),
        }
        if number % 20 == 0 {
            let refused = client.query("SELECT count(*) FROM app.orders", &[]).await.err().ok_or("not refused")?;
            check(code(&refused) == Some("42501"), format!("{refused}"))?;
        }
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Done {
    let given: Value = serde_json::from_reader(std::io::stdin())?;
    for from in [0, TRANSACTIONS / 2] {
        let pool = open(&given)?;
        let numbers = |first| (from + first..from + TRANSACTIONS / 2).step_by(2);
        let (one, other) = tokio::join!(
            some(pool.clone(), given.clone(), numbers(0)),
            some(pool.clone(), given.clone(), numbers(1))
        );
        one?;
        other?;
        pool.close();
    }
    println!("done {TRANSACTIONS}");
    Ok(())
}
